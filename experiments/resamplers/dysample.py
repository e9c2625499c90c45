r"""DySample (Liu et al., "Learning to Upsample by Learning to Sample", ICCV 2023).

Bilinear interpolation at positions that a 1x1 convolution shifts. Each of ``groups`` groups of
channels has positions of its own: target :math:`(i, j)` is interpolated at

.. math::
    \left(\tfrac{i + 1/2}{2} - \tfrac12 + \Delta_y,\;
          \tfrac{j + 1/2}{2} - \tfrac12 + \Delta_x\right)

in pixels of the map, which is extended by its border values. In DySample the offset
:math:`\Delta` is a quarter of the convolution, so that targets hardly change places. In DySample+
it is half of the convolution times the sigmoid of a second convolution, the *dynamic scope*; this
sigmoid starts at one half.

This is the variant with the linear layer before the pixel shuffle ("LP") and four groups, which the
authors use in detectors. Their code has a bias in the first convolution. It is left out here: the
published number of parameters, 32.7 thousand for four upsamplers of 256 channels, has none.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.convolution import convolve
from experiments.resamplers.checks import checked_integer, checked_map
from experiments.resamplers.convolutions import depth_to_space
from experiments.resamplers.sampling import bilinear_positions, sample

GROUPS = 4


class DySample(nn.Module):
    """Bilinear upsampling at learned positions, in groups of channels; see the module.

    Costs ``8 * groups * C`` parameters, and with the dynamic scope twice as many.

    Args:
        dynamic_scope: whether the offsets are scaled by the dynamic scope (DySample+).
        groups: number of groups of channels, which divides their number.
        dtype: dtype of the convolutions; the default is the common dtype of input and parameters.
    """

    dynamic_scope: bool = False
    groups: int = GROUPS
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``.

        Raises:
            ValueError: ``x`` does not have rank 4 or a floating-point dtype, or ``groups`` is not
                an integer that divides its channels.
        """
        x = checked_map("x", x)
        if x.shape[3] % checked_integer("groups", self.groups, 1):
            raise ValueError(f"groups must divide {x.shape[3]} channels, got {self.groups}")
        convolution = functools.partial(
            nn.Conv,
            8 * self.groups,  # a row and a column for four targets
            (1, 1),
            use_bias=False,
            dtype=self.dtype,
            conv_general_dilated=convolve,
        )
        offsets = convolution(kernel_init=nn.initializers.normal(0.001), name="offset")(x)
        if self.dynamic_scope:
            scope = convolution(kernel_init=nn.initializers.zeros, name="scope")(x)
            offsets = 0.5 * offsets * nn.sigmoid(scope)
        else:
            offsets = 0.25 * offsets
        offsets = depth_to_space(offsets, 2).astype(jnp.float32)  # [B, 2H, 2W, groups * 2]
        offsets = offsets.reshape(*offsets.shape[:3], self.groups, 2)
        return sample(x, bilinear_positions(x.shape[1], x.shape[2]) + offsets)
