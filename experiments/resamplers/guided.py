r"""Guided upsampling (GUM; reference 30: Mazzini, 2018).

Bilinear interpolation at positions that a small network shifts: the value of target :math:`(i, j)`
is interpolated at

.. math::
    \left(\tfrac{i + 1/2}{2} - \tfrac12 + \Delta_y,\;
          \tfrac{j + 1/2}{2} - \tfrac12 + \Delta_x\right)

in pixels of the map, which is extended by its border values. Without offsets :math:`\Delta` this is
bilinear upsampling.

Reference 30 upsamples the logits of a segmentation network, with offsets from a *guidance module*
of several layers. The paper does not say what this module is in an FPN or a mask head. Here it is
one 3x3 convolution of the map before upsampling, with two offsets for each of the four targets of a
pixel; its kernel starts at zero.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map
from experiments.resamplers.convolutions import depth_to_space
from experiments.resamplers.sampling import bilinear_positions, sample


class GuidedUpsample(nn.Module):
    """Bilinear upsampling with learned offsets; see the module.

    Costs ``8 * (9 * C + 1)`` parameters, for each input pixel ``8 * (18 * C + 1)`` operations of
    the convolution, and for each target ``7 * C`` of the interpolation and 22 for its position and
    weights.

    Args:
        dtype: dtype of the convolution; the default is the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``."""
        x = checked_map("x", x)
        convolution = nn.Conv(
            8,
            (3, 3),
            padding=1,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="offsets",
        )
        offsets = depth_to_space(convolution(x), 2).astype(jnp.float32)  # [B, 2H, 2W, 2]
        positions = bilinear_positions(x.shape[1], x.shape[2])
        return sample(x, positions + offsets[:, :, :, None])
