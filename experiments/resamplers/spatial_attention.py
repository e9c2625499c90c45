r"""Upsampling with spatial attention (reference 3: Chen et al., SCA-CNN, CVPR 2017).

A map, doubled by nearest interpolation, is scaled at each pixel by an attention map that a
convolution predicts from it:

.. math::
    y_{l} = \sigma(w * u)_{l} \, u_{l}, \qquad u = \mathrm{nearest}(x).

The paper says that the attention map is predicted, has the size of the map, and scales it pixel by
pixel (section 3.4). It does not say how it is predicted, or how the map is doubled. In reference 3
the attention of an image captioner is a softmax over all pixels, predicted from features and from
the state of a recurrent network, which a detector does not have. Nearest interpolation before the
attention, the 3x3 convolution and the sigmoid are choices of this project. The kernel starts at
zero, so the attention starts at one half everywhere.
"""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from experiments.resamplers.interpolation import nearest


class SpatialAttentionUpsample(nn.Module):
    """Nearest interpolation with spatial attention; see the module.

    Costs ``9 * C + 1`` parameters, and for each target ``18 * C + 1`` operations of the
    convolution, one of the sigmoid and ``C`` products.

    Args:
        dtype: dtype of the convolution; the default is the common dtype of input and parameters.
    """

    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``."""
        x = nearest(x)
        convolution = nn.Conv(
            1,
            (3, 3),
            padding=1,
            dtype=self.dtype,
            kernel_init=nn.initializers.zeros,
            name="attention",
        )
        return x * nn.sigmoid(convolution(x)).astype(x.dtype)
