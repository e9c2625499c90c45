"""RoIAlign whose number of points depends on the size of a region, exact, with static shapes.

A bin has about one point for each pixel, so the sum over its points has one term for each pixel
that the points read: at most one pixel more than points along each axis. The terms are added in a
loop whose length depends on the regions. Regions are sorted by their number of terms and processed
in groups, because a group needs as many steps as its largest region. The area of a region on P2 to
P4 is limited, and so is its number of terms, even if it is long and thin.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int32, Shaped

# Number of regions in a group.
_GROUP = 16
# Points of a bin are at least half a pixel apart, unless there is only one. So a pixel is read by
# at most four points, and rounding may add one to the range that is tried.
_CANDIDATES = 5


class Axis(NamedTuple):
    """One axis of ``R`` regions, in pixels of their maps; 0 is the centre of the first pixel.

    Attributes:
        low: coordinates at which regions begin, ``[R]``.
        side: lengths of the regions, ``[R]``.
        size: number of pixels in the maps along this axis, ``[R]``.
    """

    low: Float32[Array, " regions"]
    side: Float32[Array, " regions"]
    size: Int32[Array, " regions"]


class Regions(NamedTuple):
    """``R`` regions of maps that are flattened to one array of pixels.

    Attributes:
        first: index of the first pixel of each region's map, ``[R]``.
        rows: vertical axis of the regions.
        columns: horizontal axis of the regions.
    """

    first: Int32[Array, " regions"]
    rows: Axis
    columns: Axis


def interpolated(
    position: Float32[Array, "*shape"], size: Int32[Array, "*#shape"]
) -> tuple[Int32[Array, "*shape"], Float32[Array, "*shape"], Float32[Array, "*shape"]]:
    """Linear interpolation between pixels along one axis.

    Args:
        position: coordinates of points; 0 is the centre of the first pixel.
        size: number of pixels in the map.

    Returns:
        The pixel before each point, and the weights of this pixel and of the next. Up to one pixel
        outside the map a point has the value at the border, and further out the weights are 0.
    """
    last = size - 1
    end = last.astype(jnp.float32)
    inside = (position >= -1) & (position <= end + 1)
    position = jnp.clip(position, 0, end)
    pixel = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, jnp.maximum(last - 1, 0))
    beyond = position - pixel.astype(jnp.float32)
    return pixel, jnp.where(inside, 1 - beyond, 0), jnp.where(inside, beyond, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def adaptive_means(
    features: Float[Array, "pixels channels"], regions: Regions, bins: int
) -> Float[Array, "regions bins bins channels"]:
    """The mean over the points of each bin. The regions are constants for the gradient.

    Args:
        features: pixels of all maps, ``[N, C]``.
        regions: regions of the maps.
        bins: number ``P`` of bins along each axis.

    Returns:
        Means ``[R, P, P, C]`` in the dtype of ``features``, 0 for a region without area.
    """
    shape = (regions.first.shape[0], bins, bins, features.shape[1])

    def process_group(y: jax.Array, chosen: jax.Array) -> tuple[jax.Array, None]:
        group = _gathered(regions, chosen)

        def add(term: jax.Array, total: jax.Array) -> jax.Array:
            index, weight = _term(group, bins, term)
            values = features.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
            return total + weight[..., None] * values

        total = jnp.zeros((_GROUP, *shape[1:]), jnp.float32)
        total = lax.fori_loop(0, _terms(group, bins).max(), add, total)
        return y.at[chosen].set(total.astype(y.dtype), mode="drop"), None

    y, _ = lax.scan(process_group, jnp.zeros(shape, features.dtype), _groups(regions, bins))
    return y


def _forward(
    features: Float[Array, "pixels channels"], regions: Regions, bins: int
) -> tuple[Float[Array, "regions bins bins channels"], tuple[Regions, Shaped[Array, "pixels 0"]]]:
    # The backward pass needs only the length and the dtype of the features.
    return adaptive_means(features, regions, bins), (regions, features[:, :0])


def _backward(
    bins: int,
    residuals: tuple[Regions, Shaped[Array, "pixels 0"]],
    cotangent: Float[Array, "regions bins bins channels"],
) -> tuple[Float[Array, "pixels channels"], None]:
    regions, template = residuals

    def process_group(total: jax.Array, chosen: jax.Array) -> tuple[jax.Array, None]:
        group, y = _gathered((regions, cotangent), chosen)
        y = y.astype(jnp.float32)

        def add(term: jax.Array, total: jax.Array) -> jax.Array:
            index, weight = _term(group, bins, term)
            return total.at[index].add(weight[..., None] * y, mode="promise_in_bounds")

        return lax.fori_loop(0, _terms(group, bins).max(), add, total), None

    total = jnp.zeros((template.shape[0], cotangent.shape[-1]), jnp.float32)
    total, _ = lax.scan(process_group, total, _groups(regions, bins))
    return total.astype(template.dtype), None


adaptive_means.defvjp(_forward, _backward)


def _groups(regions: Regions, bins: int) -> Int32[Array, "groups group"]:
    """Indices of the regions of each group, and the number of regions where a group has fewer."""
    count = regions.first.shape[0]
    order = jnp.argsort(_terms(regions, bins)).astype(jnp.int32)
    return jnp.pad(order, (0, -count % _GROUP), constant_values=count).reshape(-1, _GROUP)


def _gathered[Tree](tree: Tree, chosen: Int32[Array, " group"]) -> Tree:
    """The chosen entries, with zeros for an index beyond the last, which is a region of no size."""
    return jax.tree.map(lambda x: x.at[chosen].get(mode="fill", fill_value=0), tree)


def _terms(regions: Regions, bins: int) -> Int32[Array, " regions"]:
    """Number of pixels that each bin of a region reads."""
    return _pixels(regions.rows, bins) * _pixels(regions.columns, bins)


def _pixels(axis: Axis, bins: int) -> Int32[Array, " regions"]:
    """Number of pixels along an axis that each bin of a region reads, or one more."""
    points = _points(axis, bins)
    return jnp.where(points > 0, jnp.minimum(points + 1, axis.size), 0)


def _points(axis: Axis, bins: int) -> Int32[Array, " regions"]:
    """Number of points of a bin: its length rounded up, 0 for an empty or infinite region."""
    usable = jnp.isfinite(axis.side) & (axis.side > 0)
    side = jnp.where(usable, jnp.minimum(axis.side, 2.0**24), 0)
    # XLA may multiply by the reciprocal, so that 49 / 7 is above 7. A product of integers is exact.
    points = jnp.ceil(side / bins)
    points += jnp.where(points * bins < side, 1, 0)
    points -= jnp.where((points - 1) * bins >= side, 1, 0)
    return points.astype(jnp.int32)


def _term(
    regions: Regions, bins: int, number: Int32[Array, ""]
) -> tuple[Int32[Array, "regions bins bins"], Float32[Array, "regions bins bins"]]:
    """Index and weight of the pixel with the given number in each bin."""
    width = jnp.maximum(_pixels(regions.columns, bins), 1)
    row, row_weight = _pixel(regions.rows, bins, number // width)  # [R, P]
    column, column_weight = _pixel(regions.columns, bins, number % width)
    index = row[:, :, None] * regions.columns.size[:, None, None] + column[:, None, :]
    return regions.first[:, None, None] + index, row_weight[:, :, None] * column_weight[:, None, :]


def _pixel(
    axis: Axis, bins: int, number: Int32[Array, " regions"]
) -> tuple[Int32[Array, "regions bins"], Float32[Array, "regions bins"]]:
    """The pixel with the given number along an axis of each bin, and its weight."""
    size, low = axis.size[:, None, None], axis.low[:, None, None]
    points = _points(axis, bins)[:, None, None]
    spacing = axis.side[:, None, None] / (bins * jnp.maximum(points, 1)).astype(jnp.float32)
    # Points in the bins before, [R, P, 1].
    earlier = jnp.arange(bins, dtype=jnp.int32)[None, :, None] * points

    def position(point: jax.Array) -> jax.Array:
        return low + ((earlier + point).astype(jnp.float32) + 0.5) * spacing

    start, _, _ = interpolated(position(jnp.zeros_like(points)), size)
    pixel = start + number[:, None, None]
    # The first of the points that lie within a pixel's distance.
    first = (pixel - 1).astype(jnp.float32) - position(jnp.zeros_like(points))
    first = jnp.floor(first / jnp.where(spacing > 0, spacing, 1))
    first = jnp.clip(first, 0, jnp.maximum(points - 1, 0).astype(jnp.float32)).astype(jnp.int32)
    tried = jnp.arange(_CANDIDATES, dtype=jnp.int32)[None, None, :]
    point = first + tried  # [R, P, _CANDIDATES]
    before, weight, next_weight = interpolated(position(point), size)
    weight = jnp.where(before == pixel, weight, 0) + jnp.where(before + 1 == pixel, next_weight, 0)
    count = jnp.maximum(points[..., 0], 1).astype(jnp.float32)  # [R, 1]
    weight = jnp.where(point < points, weight, 0).sum(axis=-1) / count
    # Beyond the last pixel that points read, the weight is 0.
    return jnp.clip(pixel[..., 0], 0, jnp.maximum(axis.size - 1, 0)[:, None]), weight
