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

# What rescales by the convolution itself.
CONVOLUTIONS: frozenset[Upsampler] = frozenset({"deconvolution", "pixel_shuffle"})


def upsample(
    x: Float[Array, "batch height width channels"],
    method: Upsampler,
    *,
    name: str,
    dtype: jax.typing.DTypeLike | None = None,
) -> Float[Array, "batch double_height double_width channels"]:
    """Doubles a map with the named method, inside a compact method of a Linen module.

    Args:
        x: ``[B, H, W, C]``.
        method: ``"nearest"``, ``"bilinear"`` or ``"carafe"``: CARAFE++. The others lie in a
            convolution.
        name: of the submodule, if the method has parameters.
        dtype: of the convolutions that predict kernels; by default the common dtype of input and
            parameters.

    Returns:
        ``[B, 2 * H, 2 * W, C]``, in the dtype of ``x``.

    Raises:
        ValueError: ``method`` is unknown, or lies in a convolution.
    """
    match method:
        case "nearest" | "bilinear":
            batch, height, width, channels = x.shape
            return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), method)
        case "carafe":
            return CARAFE(up=2, dtype=dtype, name=name)(x)
        case "deconvolution" | "pixel_shuffle":
            raise ValueError(f"method {method!r} rescales by a convolution: take Upsample")
    raise unknown_method(method, Upsampler)


class Upsample(nn.Module):
    """Doubles a map with the named method, and convolves it 3x3.

    Args:
        method: ``"nearest"``; ``"bilinear"``; ``"deconvolution"``: 4x4 with stride 2, which is
            the convolution too; ``"pixel_shuffle"``: the convolution yields ``4 * features``
            channels, which become space (reference 38); ``"carafe"``: CARAFE++.
        features: output channels.
        dtype: of the convolutions; by default the common dtype of input and parameters.

    Raises:
        ValueError: ``method`` is unknown.
    """

    method: Upsampler
    features: int
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, features]``."""
        match self.method:
            case "deconvolution":
                return nn.ConvTranspose(self.features, (4, 4), strides=(2, 2), dtype=self.dtype)(x)
            case "pixel_shuffle":
                x = nn.Conv(4 * self.features, (3, 3), padding=_SAME_3X3, dtype=self.dtype)(x)
                return depth_to_space(x, 2)
        x = upsample(x, self.method, name="resample", dtype=self.dtype)
        return nn.Conv(self.features, (3, 3), padding=_SAME_3X3, dtype=self.dtype)(x)


def depth_to_space(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Moves channels ``(sy * factor + sx) * C + c`` to pixel ``(sy, sx)`` of each cell."""
    batch, height, width, channels = x.shape
    out = channels // factor**2
    x = x.reshape(batch, height, width, factor, factor, out)
    x = jnp.moveaxis(x, 3, 2)  # [B, H, sy, W, sx, C]
    return x.reshape(batch, height * factor, width * factor, out)
