"""Convolutions that double a map: deconvolution and pixel shuffle."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_integer

Initializer = jax.nn.initializers.Initializer

LECUN_NORMAL = nn.initializers.lecun_normal()

_STRIDE = 2


class Deconvolution(nn.Module):
    """Transposed convolution of stride 2 (reference 33).

    Source ``(i, j)`` adds its value, multiplied by the kernel, to the targets in rows
    ``2 * i - (k - 1) // 2`` to ``2 * i + k // 2``, and in the same range of columns. This is the
    alignment of PyTorch's transposed convolution with a padding of ``(k - 1) // 2`` whose result is
    twice its input; Flax's ``"SAME"`` is shifted up by one target for odd ``k``.

    Costs ``k**2 * C * features + features`` parameters, and for each input pixel
    ``2 * k**2 * C * features`` operations, and ``4 * features`` for the bias.

    Args:
        features: number of output channels.
        kernel_size: side ``k`` of the kernel, at least 2, so that each target has a source.
        dtype: dtype of the computation; the default is the common dtype of input and parameters.
        kernel_init: initialiser of the kernel; the bias starts at zero.

    Raises:
        ValueError: ``kernel_size`` is not an integer of at least 2.
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
        size = checked_integer("kernel_size", self.kernel_size, 2)
        if size == _STRIDE:
            # Flax's name for the layer below, so that all sizes have the same parameter tree.
            return _BlockTranspose(
                self.features, self.dtype, self.kernel_init, name="ConvTranspose_0"
            )(x)
        border = (size // 2, size - size // 2)
        return nn.ConvTranspose(
            self.features,
            (size, size),
            strides=(_STRIDE, _STRIDE),
            padding=(border, border),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
        )(x)


class _BlockTranspose(nn.Module):
    """``nn.ConvTranspose`` with a kernel of the size of the stride: blocks of targets are disjoint.

    Therefore it is a matrix product, and so is its gradient. On a CPU XLA takes far longer for the
    gradient of a convolution with dilated inputs: ``experiments.benchmarks.layer`` times both.
    """

    features: int
    dtype: jax.typing.DTypeLike | None
    kernel_init: Initializer

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width features"]:
        *batch, height, width, channels = x.shape
        shape = (_STRIDE, _STRIDE, channels, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # Convolutions correlate: the last weight of the kernel applies to the first target.
        blocks = jnp.einsum("...hwc,yxcf->...hywxf", x, kernel[::-1, ::-1])
        y = blocks.reshape(*batch, _STRIDE * height, _STRIDE * width, self.features)
        return y + bias.reshape(*[1] * (y.ndim - 1), self.features)


class PixelShuffle(nn.Module):
    """3x3 convolution to four times the channels, which become 2x2 pixels (reference 38).

    Costs ``4 * (9 * C + 1) * features`` parameters, and for each input pixel
    ``4 * (18 * C + 1) * features`` operations.

    Args:
        features: number of output channels.
        dtype: dtype of the computation; the default is the common dtype of input and parameters.
        kernel_init: initialiser of the kernel; the bias starts at zero.
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
    """Moves channels ``(sy * factor + sx) * C + c`` to pixel ``(sy, sx)`` of each block.

    Raises:
        ValueError: ``factor`` is not an integer of at least 1, or its square does not divide the
            number of channels.
    """
    x, factor = jnp.asarray(x), checked_integer("factor", factor, 1)
    *batch, height, width, channels = x.shape
    if channels % factor**2:
        raise ValueError(f"the square of factor must divide {channels} channels, got {factor}")
    out = channels // factor**2
    x = x.reshape(*batch, height, width, factor, factor, out)
    x = jnp.moveaxis(x, -3, -4)  # [B, H, sy, W, sx, C]
    return x.reshape(*batch, height * factor, width * factor, out)
