"""Nearest and bilinear upsampling."""

import jax
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map


def nearest(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Repeats each pixel for its four targets. Costs no operation.

    Args:
        x: map ``[B, H, W, C]``.

    Returns:
        A map ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` does not have rank 4.
    """
    x = checked_map("x", x)
    # Repeated, not gathered: then the gradient is a sum instead of a scatter.
    return x.repeat(2, axis=1).repeat(2, axis=2)


def bilinear(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Interpolates linearly between pixel centres; the maps before and after have the same borders.

    A target is the mean of its two nearest pixels along each axis, with weights 3/4 and 1/4; the
    map is extended by its border values. Costs two products with matrices of ``2 * H * H`` and
    ``2 * W * W`` elements, at least ``4 * H * W * C * min(H + 2 * W, 2 * H + W)`` operations.

    Args:
        x: map ``[B, H, W, C]``.

    Returns:
        A map ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` does not have rank 4.
    """
    x = checked_map("x", x)
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")
