"""Max pooling, average pooling, and average pooling to any size."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map, checked_pixels, checked_size


def max_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Maximum over 3x3 pixels with stride 2, as in the stem of ResNet.

    Costs 9 comparisons for each channel of an output pixel.

    Args:
        x: map ``[B, H, W, C]``.

    Returns:
        A map ``[B, ceil(H / 2), ceil(W / 2), C]`` in the dtype of ``x``.
    """
    return nn.max_pool(jnp.asarray(x), (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def avg_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Mean of each window of 2x2 pixels, summed in float32.

    Costs 4 additions and a division for each channel of an output pixel.

    Args:
        x: map ``[B, H, W, C]``.

    Returns:
        A map ``[B, ceil(H / 2), ceil(W / 2), C]`` in the dtype of ``x``; see :func:`window_mean`.
    """
    x = checked_map("x", x)
    return window_mean(x.astype(jnp.float32)).astype(x.dtype)


def window_sum(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Sum of each window of 2x2 pixels, over the pixels inside the map."""
    window = (1, 2, 2, 1)
    return jax.lax.reduce_window(checked_map("x", x), 0.0, jax.lax.add, window, window, "SAME")


def window_mean(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Mean of each window of 2x2 pixels, over the pixels inside the map."""
    x = checked_map("x", x)
    rows, columns = (np.minimum(2, size - np.arange(0, size, 2)) for size in x.shape[1:3])
    count = np.outer(rows, columns)[None, :, :, None]  # [1, H / 2, W / 2, 1]
    return window_sum(x) / count.astype(x.dtype)


def adaptive_avg_pool(
    x: Float[Array, "batch height width channels"], size: tuple[int, int]
) -> Float[Array, "batch out_height out_width channels"]:
    """Mean of each bin of a grid that covers the map, as PyTorch's ``AdaptiveAvgPool2d``.

    Along an axis of ``H`` pixels, bin ``i`` of ``h`` covers the pixels from ``floor(i * H / h)`` to
    ``ceil((i + 1) * H / h)``, exclusive. Neighbouring bins overlap unless ``h`` divides ``H``. The
    means are computed in float32 as products with two matrices, at most
    ``2 * h * W * C * (H + w)`` operations.

    Args:
        x: map ``[B, H, W, C]`` of at least one pixel.
        size: number of bins along the height ``h`` and the width ``w``.

    Returns:
        A map ``[B, h, w, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` does not have rank 4 or a floating-point dtype, or is empty; or ``size``
            is not two integers of at least 1.
    """
    x = checked_pixels("x", x)
    rows, columns = checked_size("size", size)
    highest = jax.lax.Precision.HIGHEST
    y = x.astype(jnp.float32)
    y = jnp.einsum("bhwc,yh->bywc", y, _bins(x.shape[1], rows), precision=highest)
    y = jnp.einsum("bywc,xw->byxc", y, _bins(x.shape[2], columns), precision=highest)
    return y.astype(x.dtype)


def _bins(pixels: int, count: int) -> np.ndarray:
    """Returns the weight of each pixel in each bin, float32 ``[count, pixels]``."""
    index, pixel = np.arange(count)[:, None], np.arange(pixels)[None, :]
    inside = (pixel >= index * pixels // count) & (pixel < -(-(index + 1) * pixels // count))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
