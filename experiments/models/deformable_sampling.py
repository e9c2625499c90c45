"""Bilinear sampling of a map at predicted positions, and its gradients."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

# Rows and columns of zeros before and after the map. A sample reads 2x2 pixels, and the first of
# these is at least at -1. All four pixels of a sample in row H, column -1 are zeros.
_PADDING = ((0, 0), (1, 2), (1, 1), (0, 0))


class Corners(NamedTuple):
    """The 2x2 pixels around each of ``S`` positions.

    Attributes:
        first: index of the upper left pixel in the pixels of :func:`padded_pixels`, ``[S]``.
        below: distance from the upper pixels to the position, at least 0 and below 1, ``[S]``.
        right: distance from the left pixels to the position, at least 0 and below 1, ``[S]``.
    """

    first: Int32[Array, "*samples"]
    below: Float[Array, "*samples"]
    right: Float[Array, "*samples"]


class Steps(NamedTuple):
    """Distances between pixels in the array of :func:`padded_pixels`.

    Attributes:
        column: distance from a pixel to the next column.
        row: distance from a pixel to the next row.
        image: distance from a pixel to the next image.
    """

    column: int
    row: int
    image: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Distances from the upper left pixel to the 2x2 pixels, in row-major order."""
        return 0, self.column, self.row, self.row + self.column


def steps(shape: tuple[int, ...], groups: int) -> Steps:
    """The distances for a map ``[B, H, W, C]`` of this shape, with ``groups`` parts of channels."""
    _, height, width, _ = shape
    row = (width + sum(_PADDING[2])) * groups
    return Steps(groups, row, (height + sum(_PADDING[1])) * row)


def padded_pixels(
    x: Float[Array, "batch height width channels"], groups: int
) -> Float[Array, "pixels group_channels"]:
    """Pads a map with zeros and returns its pixels, one row for each group of channels."""
    return jnp.pad(x, _PADDING).reshape(-1, x.shape[3] // groups)


def without_padding(
    pixels: Float[Array, "pixels group_channels"], shape: tuple[int, ...]
) -> Float[Array, "batch height width channels"]:
    """Returns the map ``[B, H, W, C]`` of the given shape from the pixels of its padded map."""
    sizes = [n + sum(pair) for n, pair in zip(shape, _PADDING, strict=True)]
    (top, left), (height, width) = (_PADDING[1][0], _PADDING[2][0]), shape[1:3]
    return pixels.reshape(sizes)[:, top : top + height, left : left + width]


def corners(
    row: Float[Array, "batch out_height out_width groups taps"],
    column: Float[Array, "batch out_height out_width groups taps"],
    shape: tuple[int, ...],
) -> Corners:
    """The pixels around positions.

    A sample counts only if ``-1 < row < H`` and ``-1 < column < W``. All others, and positions that
    are not finite, are moved to padding. There the sample is zero, and so are its gradients, also
    for a sample exactly at -1.

    Args:
        row: row of each position in pixels of the map, for each group of channels and each tap.
        column: column of each position in pixels of the map, like ``row``.
        shape: shape of the map, ``[B, H, W, C]``.

    Returns:
        The corners, each array with the shape of ``row``.
    """
    _, height, width, _ = shape
    counts = (row > -1) & (row < height) & (column > -1) & (column < width)
    row, column = jnp.where(counts, row, height), jnp.where(counts, column, -1)
    top, left = jnp.floor(row), jnp.floor(column)
    images, groups = (
        jax.lax.broadcasted_iota(jnp.int32, row.shape, axis) for axis in (0, row.ndim - 2)
    )
    step = steps(shape, row.shape[-2])
    first = (
        images * step.image
        + (top.astype(jnp.int32) + _PADDING[1][0]) * step.row
        + (left.astype(jnp.int32) + _PADDING[2][0]) * step.column
        + groups
    )
    return Corners(first, row - top, column - left)


def bilinear_weights(at: Corners) -> list[Float[Array, " samples"]]:
    """The weights of the 2x2 pixels, in row-major order."""
    above, left = 1 - at.below, 1 - at.right
    return [above * left, above * at.right, at.below * left, at.below * at.right]


def corner_pixels(
    pixels: Float[Array, "pixels group_channels"], at: Corners, step: Steps
) -> list[Float[Array, "samples group_channels"]]:
    """Gathers the 2x2 pixels of each sample, in the dtype of the distances."""
    dtype = at.below.dtype
    return [
        pixels.at[at.first + distance].get(mode="promise_in_bounds").astype(dtype)
        for distance in step.corners
    ]


def weighted_sum(
    weights: list[Float[Array, " samples"]], values: list[Float[Array, "samples group_channels"]]
) -> Float[Array, "samples group_channels"]:
    """The sum of the 2x2 pixels of each sample, each with its weight."""
    total = weights[0][:, None] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight[:, None] * value
    return total


def add_to_pixels(
    pixels: Float[Array, "pixels group_channels"],
    at: Corners,
    step: Steps,
    weights: list[Float[Array, " samples"]],
    values: Float[Array, "samples group_channels"],
) -> Float[Array, "pixels group_channels"]:
    """Adds the value of each sample to its 2x2 pixels, each with its weight."""
    index = jnp.stack([at.first + distance for distance in step.corners], axis=1)  # [S, 4]
    updates = jnp.stack(weights, axis=1)[:, :, None] * values[:, None, :]
    return pixels.at[index].add(updates, mode="promise_in_bounds")


class SampleGradients(NamedTuple):
    """Gradients with respect to each of ``S`` samples' scalars, each ``[S]``.

    Attributes:
        row: gradient with respect to the row of the position.
        column: gradient with respect to the column of the position.
        mask: gradient with respect to the factor of the sample.
    """

    row: Float[Array, "*samples"]
    column: Float[Array, "*samples"]
    mask: Float[Array, "*samples"]


def sample_gradients(
    at: Corners,
    masks: Float[Array, " samples"],
    values: list[Float[Array, "samples group_channels"]],
    cotangents: Float[Array, "samples group_channels"],
) -> SampleGradients:
    """Gradients of samples that are multiplied by masks.

    At a pixel, where interpolation has no derivative, the gradient is the one on the side of the
    next pixel.

    Args:
        at: corners of the samples.
        masks: factor of each sample, ``[S]``.
        values: the 2x2 pixels of each sample from :func:`corner_pixels`.
        cotangents: cotangents of the samples, ``[S, C / groups]``.
    """
    # Each gradient is linear in the products of the 2x2 pixels with the cotangent.
    products = [jnp.sum(value * cotangents, axis=1) for value in values]
    weights = bilinear_weights(at)
    mask = sum(weight * product for weight, product in zip(weights[1:], products[1:], strict=True))
    upper_left, upper_right, lower_left, lower_right = products
    row = (1 - at.right) * (lower_left - upper_left) + at.right * (lower_right - upper_right)
    column = (1 - at.below) * (upper_right - upper_left) + at.below * (lower_right - lower_left)
    return SampleGradients(masks * row, masks * column, mask + weights[0] * products[0])
