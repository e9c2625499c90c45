"""RoIAlign (reference 12, section 3) on a feature pyramid; each region reads a single level."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped

from experiments.detection.model.adaptive_sampling import (
    Axis,
    Regions,
    adaptive_means,
    interpolated,
)
from experiments.detection.model.boxes import area

# A region with this side in pixels reads the level with this stride.
_CANONICAL_SIDE = 224
_CANONICAL_STRIDE = 16
# Relative tolerance of the smallest area of a level. Corners are rounded: far from the origin, the
# computed area of a box with a side of 112 pixels is 12,543.998.
_ROUNDING = 2e-6
# Number of regions whose gradient is scattered in one step. Scattering all regions at once takes 16
# times the memory of the result, and four times as long on a CPU.
_REGIONS_PER_STEP = 16


def assign_levels(
    boxes: Float[Array, "*batch 4"], levels: int = 4, finest_stride: int = 4
) -> Int32[Array, "*batch"]:
    """Assigns each box to a level of a pyramid (reference 23, equation 1).

    The level is ``floor(4 + log2(sqrt(area) / 224))``, clamped to the existing levels; level 2 has
    stride 4. The smallest side of a level, 112, 224 or 448 pixels, has a tolerance of a millionth,
    about as in mmdet 2. Thus the level of a box with this side does not depend on its position.

    Args:
        boxes: boxes in pixels of the input, ``[..., 4]``.
        levels: number of levels in the pyramid; each stride is twice the one before.
        finest_stride: stride of the first level.

    Returns:
        Indices into the pyramid, from 0, ``[...]``. The index of an empty box is 0.
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
    aligned: bool = True,
) -> Float[Array, "batch rois output_size output_size channels"]:
    """Resamples regions of the maps to one size.

    A region is divided into ``output_size**2`` bins. The value of a bin is the mean over
    ``sampling_ratio**2`` points on a regular grid in the bin. Each point is interpolated bilinearly
    between pixel centres, which have half-integer coordinates ("aligned"). A point up to half a
    pixel outside the map has the value at the border, and a point further out is 0. This agrees
    with torchvision, detectron2 and mmcv.

    The gradient with respect to the features is exact; boxes are constants. Sums are float32.
    Little memory is used in addition to the result and to the pyramid, which is flattened to one
    array: samples are gathered one after the other in one loop, and the gradient is scattered a few
    regions at a time.

    Args:
        pyramid: maps ``[B, H_l, W_l, C]`` with one dtype.
        strides: stride of each map, in pixels of the input.
        boxes: boxes of the regions in pixels of the input, ``[B, R, 4]``. Empty boxes are sampled
            along a line or at a point; with ``sampling_ratio = 0`` they result in zeros. Boxes that
            are not finite result in zeros.
        levels: index into the pyramid for each region, ``[B, R]``.
        output_size: number of bins along each axis.
        sampling_ratio: number of points along each axis of a bin. 0: the length of the bin along
            this axis, in pixels of the map, rounded up.
        aligned: False for the first version of RoIAlign, which torchvision's detectors have: the
            first pixel's centre has the coordinate 0, and each side of a region is at least one
            pixel of its map.

    Returns:
        Regions ``[B, R, output_size, output_size, C]`` in the dtype of the pyramid.

    Raises:
        ValueError: the shapes of the arguments contradict each other, ``output_size`` is below 1,
            or ``sampling_ratio`` is negative.
    """
    _check(pyramid, strides, boxes, levels, output_size, sampling_ratio)
    batch, regions = levels.shape
    channels = pyramid[0].shape[-1]
    if regions == 0:
        return jnp.zeros((batch, 0, output_size, output_size, channels), pyramid[0].dtype)
    flat = jnp.concatenate([x.reshape(batch, -1, channels) for x in pyramid], axis=1)
    length = flat.shape[1]
    starts, start = [], 0
    for x in pyramid:
        starts.append(start)
        start += x.shape[1] * x.shape[2]

    def for_each_region(values: Sequence[float], dtype: jax.typing.DTypeLike) -> jax.Array:
        return jnp.asarray(values, dtype)[levels].reshape(-1)  # [B * R]

    heights = for_each_region([x.shape[1] for x in pyramid], jnp.int32)
    widths = for_each_region([x.shape[2] for x in pyramid], jnp.int32)
    image = jnp.repeat(jnp.arange(batch, dtype=jnp.int32), regions)
    first = image * length + for_each_region(starts, jnp.int32)
    scales = for_each_region([1 / stride for stride in strides], jnp.float32)
    corners = lax.stop_gradient(boxes).astype(jnp.float32).reshape(-1, 4) * scales[:, None]
    if aligned:
        corners -= 0.5
    x1, y1, x2, y2 = (corners[:, side] for side in range(4))
    shortest = -jnp.inf if aligned else 1.0
    vertical = Axis(y1, jnp.maximum(y2 - y1, shortest), heights)
    horizontal = Axis(x1, jnp.maximum(x2 - x1, shortest), widths)
    flat = flat.reshape(-1, channels)
    if sampling_ratio == 0:
        y = adaptive_means(flat, Regions(first, vertical, horizontal), output_size)
    else:
        rows, row_weights = _axis_samples(vertical, output_size, sampling_ratio)
        columns, column_weights = _axis_samples(horizontal, output_size, sampling_ratio)
        rows = first[:, None, None] + rows * widths[:, None, None]
        y = _weighted_sums(flat, _Samples(rows, columns, row_weights, column_weights))
    return y.reshape(batch, regions, output_size, output_size, channels)


class _Samples(NamedTuple):
    """Pixels that the bins of ``R`` regions sample, and their weights.

    A region has ``P`` bins along each axis, and each bin samples ``K`` pixels along each axis.

    Attributes:
        rows: index of the first pixel of each sampled row, ``[R, P, K]``.
        columns: offset of each sampled column within its row, ``[R, P, K]``.
        row_weights: weights of the rows, ``[R, P, K]``.
        column_weights: weights of the columns, ``[R, P, K]``.
    """

    rows: Int32[Array, "regions bins samples"]
    columns: Int32[Array, "regions bins samples"]
    row_weights: Float32[Array, "regions bins samples"]
    column_weights: Float32[Array, "regions bins samples"]


def _axis_samples(
    axis: Axis, bins: int, points: int
) -> tuple[Int32[Array, "regions bins samples"], Float32[Array, "regions bins samples"]]:
    """Sampled pixels and weights along one axis: two pixels for each point of a bin.

    Args:
        axis: beginning and length of the regions.
        bins: number of bins in a region along this axis.
        points: number of points in a bin along this axis.
    """
    at = (jnp.arange(bins * points, dtype=jnp.float32) + 0.5) / (bins * points)
    position = axis.low[:, None] + at[None, :] * axis.side[:, None]  # [R, P * points]
    size = axis.size[:, None]
    pixel, weight, next_weight = interpolated(position, size)
    pixels = jnp.stack([pixel, jnp.minimum(pixel + 1, size - 1)], axis=-1)
    weights = jnp.stack([weight, next_weight], axis=-1) / points
    shape = (axis.low.shape[0], bins, 2 * points)
    return pixels.reshape(shape), weights.reshape(shape)


@jax.custom_vjp
def _weighted_sums(
    features: Float[Array, "pixels channels"], samples: _Samples
) -> Float[Array, "regions bins bins channels"]:
    """Weighted sums of the samples of each bin. The weights are constants for the gradient."""
    per_axis = samples.rows.shape[-1]
    total: jax.Array = jnp.float32(0)
    # Unrolled, so that XLA fuses it into one loop over the result. Without unrolling it takes twice
    # as long.
    for n in range(per_axis):
        for m in range(per_axis):
            index = samples.rows[:, :, None, n] + samples.columns[:, None, :, m]  # [R, P, P]
            weight = samples.row_weights[:, :, None, n] * samples.column_weights[:, None, :, m]
            values = features.at[index].get(mode="promise_in_bounds").astype(jnp.float32)
            total = total + weight[..., None] * values
    return total.astype(features.dtype)


def _weighted_sums_forward(
    features: Float[Array, "pixels channels"], samples: _Samples
) -> tuple[Float[Array, "regions bins bins channels"], tuple[_Samples, Shaped[Array, "pixels 0"]]]:
    # The backward pass needs only the length and the dtype of the features.
    return _weighted_sums(features, samples), (samples, features[:, :0])


def _weighted_sums_backward(
    residuals: tuple[_Samples, Shaped[Array, "pixels 0"]],
    cotangent: Float[Array, "regions bins bins channels"],
) -> tuple[Float[Array, "pixels channels"], None]:
    samples, template = residuals
    regions = cotangent.shape[0]
    steps = -(-regions // _REGIONS_PER_STEP)

    def in_steps(x: jax.Array) -> jax.Array:
        # Regions that pad the last step have weight 0.
        x = jnp.pad(x, ((0, steps * _REGIONS_PER_STEP - regions), *[(0, 0)] * (x.ndim - 1)))
        return x.reshape(steps, _REGIONS_PER_STEP, *x.shape[1:])

    def add(total: jax.Array, step: tuple[_Samples, jax.Array]) -> tuple[jax.Array, None]:
        (rows, columns, row_weights, column_weights), y = step
        index = rows[:, :, None, :, None] + columns[:, None, :, None, :]  # [R, P, P, K, K]
        weight = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
        update = weight[..., None] * y[:, :, :, None, None].astype(jnp.float32)
        return total.at[index].add(update, mode="promise_in_bounds"), None

    total = jnp.zeros((template.shape[0], cotangent.shape[-1]), jnp.float32)
    total, _ = lax.scan(add, total, jax.tree.map(in_steps, (samples, cotangent)))
    return total.astype(template.dtype), None


_weighted_sums.defvjp(_weighted_sums_forward, _weighted_sums_backward)


def _check(
    pyramid: Sequence[jax.Array],
    strides: Sequence[int],
    boxes: jax.Array,
    levels: jax.Array,
    output_size: int,
    sampling_ratio: int,
) -> None:
    shapes = [x.shape for x in pyramid]
    batches_and_channels = {(shape[0], shape[-1]) for shape in shapes if len(shape) == 4}
    if len(batches_and_channels) != 1 or any(
        len(shape) != 4 or 0 in shape[1:3] for shape in shapes
    ):
        raise ValueError(
            "pyramid must be one or more maps [B, H, W, C] with the same B and the same C, "
            f"got {shapes}"
        )
    if len(strides) != len(pyramid):
        raise ValueError(
            f"strides must have length {len(pyramid)}, one for each map, got {list(strides)}"
        )
    if boxes.ndim != 3 or boxes.shape[0] != shapes[0][0] or boxes.shape[2] != 4:
        raise ValueError(f"boxes must be [B, R, 4] with B = {shapes[0][0]}, got {boxes.shape}")
    if levels.shape != boxes.shape[:2]:
        raise ValueError(f"levels must be [B, R] = {boxes.shape[:2]}, got {levels.shape}")
    if output_size < 1:
        raise ValueError(f"output_size must be at least 1, got {output_size}")
    if sampling_ratio < 0:
        raise ValueError(f"sampling_ratio must be at least 0, got {sampling_ratio}")
