"""Every down- and upsampler that the paper compares, behind one interface.

A resampler here includes the convolution that it feeds, because that is where they differ: a
strided convolution rescales in the convolution itself, all others rescale before one of stride 1
(section 4.1, Fig. 4; section 4.3).
"""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from carafe_jax.linen import CARAFE

Downsampler = Literal["strided", "max_pool", "avg_pool", "carafe"]
Upsampler = Literal["nearest", "bilinear", "deconvolution", "pixel_shuffle", "carafe"]

_SAME_3X3 = ((1, 1), (1, 1))


class Downsample(nn.Module):
    """Halves a map with the named method, and convolves it 3x3.

    Args:
        method: ``"strided"``: the convolution has stride 2. ``"max_pool"``: 3x3 maximum.
            ``"avg_pool"``: 2x2 mean. ``"carafe"``: CARAFE++.
        features: output channels.

    Raises:
        ValueError: ``method`` is unknown.
    """

    method: Downsampler
    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, ceil(H / 2), ceil(W / 2), features]``."""
        stride = 1
        match self.method:
            case "strided":
                stride = 2
            case "max_pool":
                x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=_SAME_3X3)
            case "avg_pool":
                x = nn.avg_pool(x, (2, 2), (2, 2), padding="SAME", count_include_pad=False)
            case "carafe":
                x = CARAFE(down=2, name="resample")(x)
            case _:
                raise _unknown(self.method, Downsampler)
        return nn.Conv(self.features, (3, 3), strides=stride, padding=_SAME_3X3)(x)


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
                raise _unknown(self.method, Upsampler)
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


def _unknown(method: str, methods: object) -> ValueError:
    return ValueError(f"method must be one of {get_args(methods)}, got {method!r}")
