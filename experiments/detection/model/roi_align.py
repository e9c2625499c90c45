"""RoIAlign (reference 12, section 3) on a feature pyramid, each region on one level only."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped

from experiments.detection.model.boxes import area

# A region of this side in pixels is cut out of the level with this stride.
_CANONICAL_SIDE = 224
_CANONICAL_STRIDE = 16
# Areas below where a level begins by a smaller share of it belong to the level: the corners of a
# box of 112 pixels are rounded, and far from the origin its area comes out as 12,543.998.
_ROUNDING = 2e-6
# The number of regions whose gradient is scattered at a time. All at once would take 16 times the
# memory of the result, and on a CPU four times as long.
_REGIONS_A_STEP = 16


def assign_levels(
    boxes: Float[Array, "*batch 4"], levels: int = 4, finest_stride: int = 4
) -> Int32[Array, "*batch"]:
    """The level of a pyramid that each box is cut out of (reference 23, equation 1).

    ``floor(4 + log2(sqrt(area) / 224))``, where 2 is the level with stride 4, within what there
    is. A level begins at 112, 224 or 448 pixels less a millionth, about as in mmdet 2, so that it
    does not depend on where in the image a box of that side lies.

    Args:
        boxes: ``[..., 4]`` in pixels of the input.
        levels: of the pyramid; strides double from one to the next.
        finest_stride: of the first.

    Returns:
        ``[...]``, from 0: the index into the pyramid. That of an empty box is 0.
    """
    size = area(boxes)
    finest_side = _CANONICAL_SIDE * finest_stride / _CANONICAL_STRIDE
    starts = [(finest_side * 2**level) ** 2 for level in range(1, levels)]
    level = jnp.zeros(size.shape, jnp.int32)
    for start in starts:
        level += (size >= start * (1 - _ROUNDING)).astype(jnp.int32)
    return level


def roi_align(
    pyramid: Sequence[Float[Array, "batch _height _width channels"]],
    strides: Sequence[int],
    boxes: Float[Array, "batch rois 4"],
    levels: Int[Array, "batch rois"],
    output_size: int,
    sampling_ratio: int = 2,
) -> Float[Array, "batch rois output_size output_size channels"]:
    """Cuts regions out of the maps and resamples them to one size.

    A region is divided into ``output_size**2`` cells, and a cell is the mean of
    ``sampling_ratio**2`` points on a regular grid in it, each interpolated bilinearly between pixel
    centres, which lie at halves ("aligned"). A point up to half a pixel outside the map has the
    value at the border, and one further out is 0. As in torchvision and detectron2.

    The features' gradient is exact; boxes are constants. Sums are float32, and memory besides the
    result and the pyramid, flattened to one array, is small: taps are gathered one after the other
    in one loop, and the gradient is scattered a few regions at a time.

    Args:
        pyramid: maps ``[B, H_l, W_l, C]`` of one dtype.
        strides: of each map, in pixels of the input.
        boxes: ``[B, R, 4]`` in pixels of the input. Empty ones have the values along a line, or at
            a point; ones that are not finite give zeros.
        levels: ``[B, R]``, the index into the pyramid.
        output_size: cells along each axis.
        sampling_ratio: points along each axis of a cell.

    Returns:
        ``[B, R, output_size, output_size, C]`` in the dtype of the pyramid.

    Raises:
        ValueError: shapes do not fit each other, or a number is below 1.
    """
    _check(pyramid, strides, boxes, levels, output_size, sampling_ratio)
    batch, regions = levels.shape
    channels = pyramid[0].shape[-1]
    flat = jnp.concatenate([x.reshape(batch, -1, channels) for x in pyramid], axis=1)
    length = flat.shape[1]
    starts, start = [], 0
    for x in pyramid:
        starts.append(start)
        start += x.shape[1] * x.shape[2]

    def of_level(values: Sequence[float], dtype: jax.typing.DTypeLike) -> jax.Array:
        return jnp.asarray(values, dtype)[levels].reshape(-1)  # [B * R]

    heights = of_level([x.shape[1] for x in pyramid], jnp.int32)
    widths = of_level([x.shape[2] for x in pyramid], jnp.int32)
    image = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), regions)
    first = image * length + of_level(starts, jnp.int32)
    scales = of_level([1 / stride for stride in strides], jnp.float32)
    corners = lax.stop_gradient(boxes).astype(jnp.float32).reshape(-1, 4) * scales[:, None] - 0.5
    x1, y1, x2, y2 = (corners[:, side] for side in range(4))
    rows, row_weights = _axis_taps(y1, y2, heights, output_size, sampling_ratio)
    columns, column_weights = _axis_taps(x1, x2, widths, output_size, sampling_ratio)
    rows = first[:, None, None] + rows * widths[:, None, None]
    taps = _Taps(rows, columns, row_weights, column_weights)
    y = _contract(flat.reshape(-1, channels), taps)
    return y.reshape(batch, regions, output_size, output_size, channels)


class _Taps(NamedTuple):
    """Where the cells of regions read, and how much of it; an axis of ``K`` taps a cell each.

    Attributes:
        rows: ``[R, P, K]``, index of the first pixel of the row that row i of the cells reads.
        columns: ``[R, P, K]``, what to add to it for column j.
        row_weights: ``[R, P, K]``.
        column_weights: ``[R, P, K]``.
    """

    rows: Int32[Array, "regions cells taps"]
    columns: Int32[Array, "regions cells taps"]
    row_weights: Float32[Array, "regions cells taps"]
    column_weights: Float32[Array, "regions cells taps"]


def _axis_taps(
    low: Float32[Array, " regions"],
    high: Float32[Array, " regions"],
    size: Int32[Array, " regions"],
    cells: int,
    points: int,
) -> tuple[Int32[Array, "regions cells taps"], Float32[Array, "regions cells taps"]]:
    """Pixels and weights of one axis: two for each of a cell's points.

    Args:
        low: where regions begin, in pixels of their maps, of which 0 is the first centre.
        high: where they end.
        size: pixels of their maps.
        cells: of a region.
        points: of a cell.
    """
    at = (jnp.arange(cells * points, dtype=jnp.float32) + 0.5) / (cells * points)
    position = low[:, None] + at[None, :] * (high - low)[:, None]  # [R, P * points]
    last = (size - 1)[:, None]
    end = last.astype(jnp.float32)
    inside = (position >= -1) & (position <= end + 1)
    position = jnp.clip(position, 0, end)
    pixel = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, jnp.maximum(last - 1, 0))
    beyond = position - pixel.astype(jnp.float32)
    pixels = jnp.stack([pixel, jnp.minimum(pixel + 1, last)], axis=-1)
    weights = jnp.stack([1 - beyond, beyond], axis=-1)
    weights = jnp.where(inside[..., None], weights, 0) / points
    shape = (low.shape[0], cells, 2 * points)
    return pixels.reshape(shape), weights.reshape(shape)


@jax.custom_vjp
def _contract(
    features: Float[Array, "pixels channels"], taps: _Taps
) -> Float[Array, "regions cells cells channels"]:
    """Weighted sums of taps; constant in the weights."""
    taps_an_axis = taps.rows.shape[-1]
    total: jax.Array = jnp.float32(0)
    # Unrolled: XLA makes it one loop over the result. As a loop of its own it takes twice as long.
    for n in range(taps_an_axis):
        for m in range(taps_an_axis):
            index = taps.rows[:, :, None, n] + taps.columns[:, None, :, m]  # [R, P, P]
            weight = taps.row_weights[:, :, None, n] * taps.column_weights[:, None, :, m]
            values = features.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
            total = total + weight[..., None] * values
    return total.astype(features.dtype)


def _contract_forward(
    features: Float[Array, "pixels channels"], taps: _Taps
) -> tuple[Float[Array, "regions cells cells channels"], tuple[_Taps, Shaped[Array, "pixels 0"]]]:
    # Without channels: only the length and the dtype are wanted.
    return _contract(features, taps), (taps, features[:, :0])


def _contract_backward(
    residuals: tuple[_Taps, Shaped[Array, "pixels 0"]],
    cotangent: Float[Array, "regions cells cells channels"],
) -> tuple[Float[Array, "pixels channels"], None]:
    taps, like = residuals
    regions = cotangent.shape[0]
    steps = -(-regions // _REGIONS_A_STEP)

    def in_steps(x: jax.Array) -> jax.Array:
        # What is added for the last step has weight 0.
        x = jnp.pad(x, ((0, steps * _REGIONS_A_STEP - regions), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(steps, _REGIONS_A_STEP, *x.shape[1:])

    def add(total: jax.Array, step: tuple[_Taps, jax.Array]) -> tuple[jax.Array, None]:
        (rows, columns, row_weights, column_weights), y = step
        index = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # [R, P, P, K, K]
        weight = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
        update = weight[..., None] * y[:, :, :, None, None].astype(jnp.float32)
        return total.at[index].add(update, mode="promise_in_bounds"), None

    total = jnp.zeros((like.shape[0], cotangent.shape[-1]), jnp.float32)
    total, _ = lax.scan(add, total, jax.tree.map(in_steps, (taps, cotangent)))
    return total.astype(like.dtype), None


_contract.defvjp(_contract_forward, _contract_backward)


def _check(
    pyramid: Sequence[jax.Array],
    strides: Sequence[int],
    boxes: jax.Array,
    levels: jax.Array,
    output_size: int,
    sampling_ratio: int,
) -> None:
    shapes = [x.shape for x in pyramid]
    alike = {(shape[0], shape[-1]) for shape in shapes if len(shape) == 4}
    if len(alike) != 1 or any(len(shape) != 4 or 0 in shape[1:3] for shape in shapes):
        raise ValueError(
            f"pyramid must be one or more maps [B, H, W, C] of one B and one C, got {shapes}"
        )
    if len(strides) != len(pyramid):
        raise ValueError(f"strides must be {len(pyramid)}, one for each map, got {list(strides)}")
    if boxes.ndim != 3 or boxes.shape[0] != shapes[0][0] or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [B, R, 4] with B = {shapes[0][0]}, got {boxes.shape}")
    if levels.shape != boxes.shape[:2]:
        raise ValueError(f"levels must be [B, R] = {boxes.shape[:2]}, got {levels.shape}")
    for name, value in (("output_size", output_size), ("sampling_ratio", sampling_ratio)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
