"""Convolutions that double their input themselves: deconvolution and pixel shuffle."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Initializer = jax.nn.initializers.Initializer

LECUN_NORMAL = nn.initializers.lecun_normal()


class Deconvolution(nn.Module):
    """Transposed convolution of stride 2 (reference 33).

    Source ``(i, j)`` adds its value, times the kernel, to the targets from ``2 * i - (k - 1) // 2``
    to ``2 * i + k // 2``, and so in columns: as PyTorch aligns a transposed convolution with a
    padding of ``(k - 1) // 2`` whose result is twice its input, while Flax's ``"SAME"`` lies a
    target higher for odd ``k``.

    Costs ``k**2 * C * features + features`` parameters, and for an input pixel
    ``2 * k**2 * C * features`` operations beside ``4 * features`` of the bias.

    Args:
        features: output channels.
        kernel_size: side ``k`` of the kernel, at least 2: each target needs a source.
        dtype: of the computation; by default the common dtype of input and parameters.
        kernel_init: of the kernel; the bias starts at zero.

    Raises:
        ValueError: ``kernel_size`` is less than 2.
    """

    features: int
    kernel_size: int
    dtype: jax.typing.DTypeLike | None = None
    kernel_init: Initializer = LECUN_NORMAL

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, features]``."""
        size = self.kernel_size
        if size < 2:
            raise ValueError(f"kernel_size must be at least 2, got {size}")
        border = (size // 2, size - size // 2)
        return nn.ConvTranspose(
            self.features,
            (size, size),
            strides=(2, 2),
            padding=(border, border),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )(x)


class PixelShuffle(nn.Module):
    """3x3 convolution to four times the channels, which become space (reference 38).

    Costs ``4 * (9 * C + 1) * features`` parameters, and for an input pixel
    ``4 * (18 * C + 1) * features`` operations.

    Args:
        features: output channels.
        dtype: of the computation; by default the common dtype of input and parameters.
        kernel_init: of the kernel; the bias starts at zero.
    """

    features: int
    dtype: jax.typing.DTypeLike | None = None
    kernel_init: Initializer = LECUN_NORMAL

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width features"]:
        """Maps ``[B, H, W, C]`` to ``[B, 2 * H, 2 * W, features]``."""
        convolution = nn.Conv(
            4 * self.features, (3, 3), padding=1, dtype=self.dtype, kernel_init=self.kernel_init
        )
        return depth_to_space(convolution(x), 2)


def depth_to_space(
    x: Float[Array, "batch height width channels"], factor: int
) -> Float[Array, "batch out_height out_width out_channels"]:
    """Moves channels ``(sy * factor + sx) * C + c`` to pixel ``(sy, sx)`` of each cell."""
    batch, height, width, channels = x.shape
    out = channels // factor**2
    x = x.reshape(batch, height, width, factor, factor, out)
    x = jnp.moveaxis(x, 3, 2)  # [B, H, sy, W, sx, C]
    return x.reshape(batch, height * factor, width * factor, out)
