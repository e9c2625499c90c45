"""Bilinear sampling of a map at any positions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.resamplers.checks import checked_map


def sample(
    x: Float[Array, "batch height width channels"],
    positions: Float[Array, "batch out_height out_width groups 2"],
) -> Float[Array, "batch out_height out_width channels"]:
    """Interpolates a map bilinearly, in float32.

    Args:
        x: map ``[B, H, W, C]``.
        positions: row and column of each target, ``[B, H', W', groups, 2]``, in pixels of ``x``
            from the centre of its first pixel. Each group of consecutive channels has positions of
            its own. A position outside the map gets the nearest border value, and has no gradient.

    Returns:
        A map ``[B, H', W', C]`` in the dtype of ``x``.

    Raises:
        ValueError: ``x`` or ``positions`` has a wrong shape, or the groups do not divide the
            channels.
    """
    x, positions = checked_map("x", x), jnp.asarray(positions)
    batch, height, width, channels = x.shape
    if positions.ndim != 5 or positions.shape[0] != batch or positions.shape[-1] != 2:
        raise ValueError(
            f"positions must be [B, H', W', groups, 2] with B = {batch}, got {positions.shape}"
        )
    out_height, out_width, groups = positions.shape[1:4]
    if groups < 1 or channels % groups:
        raise ValueError(
            f"positions must have groups that divide the {channels} channels of x, got {groups}"
        )
    # Converted to float32 before the gather, so that its gradient is summed in float32 too.
    pixels = x.astype(jnp.float32)
    pixels = pixels.reshape(batch, height * width, groups, channels // groups)
    rows = _neighbours(positions[..., 0], height)
    columns = _neighbours(positions[..., 1], width)
    terms = []
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        index = (row * width + column).reshape(batch, -1, groups, 1)  # [B, H' * W', groups, 1]
        corner = jnp.take_along_axis(pixels, index, axis=1, mode="clip")
        weight = (row_weight * column_weight).reshape(batch, -1, groups, 1)
        terms.append(weight * corner)
    y = sum(terms[1:], start=terms[0])
    return y.reshape(batch, out_height, out_width, channels).astype(x.dtype)


def bilinear_positions(height: int, width: int) -> Float[Array, "1 double_height double_width 1 2"]:
    """Returns the positions at which :func:`sample` doubles a map bilinearly.

    Args:
        height: height of the map, in pixels.
        width: width of the map, in pixels.
    """
    rows, columns = (np.arange(2 * size, dtype=np.float32) / 2 - 0.25 for size in (height, width))
    positions = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)  # [2H, 2W, 2]
    return jnp.asarray(positions[None, :, :, None])


def _neighbours(
    position: Float[Array, "batch out_height out_width groups"], size: int
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns index and weight of the pixels before and after a position along an axis."""
    floor = jnp.floor(position)
    # Clipped before the conversion to integers, which cannot represent all floats.
    before, after = (jnp.clip(floor + step, 0, size - 1).astype(jnp.int32) for step in (0, 1))
    weight = position - floor
    return (before, 1 - weight), (after, weight)
