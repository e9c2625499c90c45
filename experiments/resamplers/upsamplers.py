"""All upsamplers behind one interface.

An upsampler here includes the convolution that it feeds, because that is where they differ: some
rescale in the convolution itself, all others before one of stride 1 (section 4.3).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.linen import CARAFE
from experiments.resamplers.methods import Upsampler, unknown_method

_SAME_3X3 = ((1, 1), (1, 1))


class Upsample(nn.Module):
    """Doubles a map with the named method, and convolves it 3x3.

    Args:
        method: ``"nearest"``; ``"bilinear"``; ``"deconvolution"``: 4x4 with stride 2, which is
            the convolution too; ``"pixel_shuffle"``: the convolution yields ``4 * features``
            channels, which become space (reference 38); ``"carafe"``: CARAFE++.
        features: output channels.

    Raises:
        ValueError: ``method`` is unknown.
    """

    method: Upsampler
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, features]``."""
        match self.method:
            case "nearest" | "bilinear":
                batch, height, width, channels = x.shape
                shape = (batch, 2 * height, 2 * width, channels)
                x = jax.image.resize(x, shape, self.method)
            case "deconvolution":
                return nn.ConvTranspose(self.features, (4, 4), strides=(2, 2))(x)
            case "pixel_shuffle":
                x = nn.Conv(4 * self.features, (3, 3), padding=_SAME_3X3)(x)
                return depth_to_space(x, 2)
            case "carafe":
                x = CARAFE(up=2, name="resample")(x)
            case _:
                raise unknown_method(self.method, Upsampler)
        return nn.Conv(self.features, (3, 3), padding=_SAME_3X3)(x)


def depth_to_space(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Moves channels ``(sy * factor + sx) * C + c`` to pixel ``(sy, sx)`` of each cell."""
    batch, height, width, channels = x.shape
    out = channels // factor**2
    x = x.reshape(batch, height, width, factor, factor, out)
    x = jnp.moveaxis(x, 3, 2)  # [B, H, sy, W, sx, C]
    return x.reshape(batch, height * factor, width * factor, out)
