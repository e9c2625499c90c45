"""Upsampling by fixed rules: the nearest pixel, and the four around."""

import jax
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map


def nearest(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Gives each pixel four targets. Costs no operation.

    Args:
        x: ``[B, H, W, C]``.

    Returns:
        ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` has another rank.
    """
    x = checked_map("x", x)
    # Repeated and not gathered: the gradient is then a sum, and no scatter.
    return x.repeat(2, axis=1).repeat(2, axis=2)


def bilinear(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Interpolates between the centres of pixels, whose borders are those of the targets.

    Targets weigh the pixels at their two sides by 3/4 and 1/4, in rows and in columns; outside the
    map its border goes on. Costs two products with matrices of ``2 * H * H`` and ``2 * W * W``
    elements, at least ``4 * H * W * C * min(H + 2 * W, 2 * H + W)`` operations.

    Args:
        x: ``[B, H, W, C]``.

    Returns:
        ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` has another rank.
    """
    x = checked_map("x", x)
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")
