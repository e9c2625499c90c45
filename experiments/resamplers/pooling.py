"""Max pooling and average pooling."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map


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
