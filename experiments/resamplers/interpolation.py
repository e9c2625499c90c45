"""Nearest and bilinear upsampling, and bilinear interpolation to any size."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map, checked_pixels, checked_size


def nearest(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Repeats each pixel for its four targets. Costs no operation.

    Args:
        x: map ``[B, H, W, C]``.

    Returns:
        A map ``[B, 2 * H, 2 * W, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` does not have rank 4 or a floating-point dtype.
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
        ValueError: ``x`` does not have rank 4 or a floating-point dtype.
    """
    x = checked_map("x", x)
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")


def resize(
    x: Float[Array, "batch height width channels"],
    size: tuple[int, int],
    align_corners: bool = False,
) -> Float[Array, "batch out_height out_width channels"]:
    """Interpolates bilinearly to any size, as ``interpolate`` of PyTorch without antialiasing.

    Along each axis, a target is the weighted mean of its two nearest pixels, also if the map
    becomes smaller. Costs a product with a matrix for each axis whose length changes; so do the
    gradients.

    Args:
        x: map ``[B, H, W, C]`` of at least one pixel.
        size: height ``h`` and width ``w`` of the result, in pixels.
        align_corners: whether the centres of the corner pixels coincide, instead of the borders of
            the maps. Then target ``i`` of a row is at ``i * (W - 1) / (w - 1)``, and the only
            target of a row, if ``w`` is 1, at the first pixel. Otherwise it is at
            ``(i + 1 / 2) * W / w - 1 / 2``, and the map is extended by its border values.

    Returns:
        A map ``[B, h, w, C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` does not have rank 4 or a floating-point dtype, or is empty; or ``size``
            is not two integers of at least 1.
    """
    x = checked_pixels("x", x)
    rows, columns = checked_size("size", size)
    shape = (x.shape[0], rows, columns, x.shape[3])
    if not align_corners:
        return jax.image.resize(x, shape, "bilinear", antialias=False)
    # A single target is at the first pixel for every scale.
    x = x[:, : x.shape[1] if rows > 1 else 1, : x.shape[2] if columns > 1 else 1]
    changing = [axis for axis in (1, 2) if x.shape[axis] != shape[axis] and x.shape[axis] > 1]
    if changing:
        target = [shape[axis] if axis in changing else x.shape[axis] for axis in range(4)]
        scale = jnp.array(
            [(shape[axis] - 1) / (x.shape[axis] - 1) for axis in changing], jnp.float32
        )
        # The functions of jax.image measure positions from the border of the map.
        shift = 0.5 - 0.5 * scale
        x = jax.image.scale_and_translate(
            x, target, changing, scale, shift, "bilinear", antialias=False
        )
    return jnp.broadcast_to(x, shape)
