"""Downsampling without a padded copy of the map.

When a map is downsampled, it is larger than the result. A padded copy of the map would take about a
third of the time of the forward pass, and only the cells at the border need the padding. So the
inner cells read the map itself, and the cells at the border read padded copies of its border.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Geometry
from carafe_kernels.xla.cells import Span
from carafe_kernels.xla.contractions import forward, sum_in_passes


def downsample_in_parts(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    geometry: Geometry,
    dtype: np.dtype,
    result_dtype: np.dtype,
) -> Float[Array, "batch out_height out_width channels"]:
    """Computes :func:`carafe_kernels.xla.contractions.forward` for an integer stride, in parts.

    Args:
        x: feature map ``[B, H, W, C]``.
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        geometry: geometry of the reassembly, with ``up = 1`` in lowest terms.
        dtype: dtype of the sums.
        result_dtype: dtype of the result.

    Returns:
        The rescaled map ``[B, H', W', C]`` in ``result_dtype``.
    """
    geometry = geometry.lowest_terms
    (top, rows, bottom), (left, columns, right) = (
        _before_inside_after(geometry, size) for size in x.shape[1:3]
    )
    whole_rows = Span(weights.shape[2])
    border = [(top, whole_rows), (rows, left), (rows, right), (bottom, whole_rows)]
    y = jnp.zeros((*weights.shape[:3], x.shape[3]), result_dtype)

    def put(y: jax.Array, part: jax.Array, window: tuple[Span, Span]) -> jax.Array:
        start = [0, *(span.first for span in window), 0]
        # Without the barrier XLA computes all parts for each output and selects one of them.
        return lax.optimization_barrier(
            lax.dynamic_update_slice(y, part.astype(result_dtype), start)
        )

    if rows.count and columns.count:
        inside = _downsample_inside(x, weights, geometry, dtype, rows, columns)
        y = put(y, inside, (rows, columns))
    for window in border:
        if all(span.count for span in window):
            y = put(y, forward(x, weights, geometry, dtype, window), window)
    return y


def share_inside(geometry: Geometry, size: tuple[int, int]) -> float:
    """The fraction of outputs whose taps all lie inside a map of ``(H, W)``, for ``up = 1``."""
    geometry = geometry.lowest_terms
    inside = math.prod(_before_inside_after(geometry, side)[1].count for side in size)
    return inside / max(1, math.prod(map(geometry.cells, size)))


def _downsample_inside(
    x: jax.Array, weights: jax.Array, geometry: Geometry, dtype: np.dtype, rows: Span, columns: Span
) -> jax.Array:
    """Computes the outputs of cells whose taps all lie inside the map.

    Returns:
        The outputs ``[b, q, r, C]`` in ``dtype``.
    """
    size, stride, groups = geometry.kernel_size, geometry.down, geometry.groups
    weights = weights[:, rows.first :, columns.first :][:, : rows.count, : columns.count]
    w = split_axis(weights, 3, groups, geometry.taps).astype(dtype)  # [b, q, r, g, k]
    sources = split_axis(x, 3, groups, x.shape[3] // groups)  # [b, H, W, g, c]

    def tap_view(n: int, m: int) -> jax.Array:
        first = [
            span.first * stride - geometry.radius + tap for span, tap in ((rows, n), (columns, m))
        ]
        last = [
            start + (span.count - 1) * stride
            for start, span in zip(first, (rows, columns), strict=True)
        ]
        view = sources[:, first[0] : last[0] + 1 : stride, first[1] : last[1] + 1 : stride]
        # Converting each view avoids a converted copy of the whole map.
        return view.astype(dtype)  # [b, q, r, g, c]

    terms = [
        [w[..., n * size + m, None] * tap_view(n, m) for m in range(size)] for n in range(size)
    ]
    return merge_axes(sum_in_passes(terms), 3)


def _before_inside_after(geometry: Geometry, size: int) -> tuple[Span, Span, Span]:
    """Splits the cells of an axis by whether all of their taps lie inside the map.

    Returns:
        The cells before the inner cells, the inner cells, and the cells after them.
    """
    cells, radius, stride = geometry.cells(size), geometry.radius, geometry.down
    first = min(-(-radius // stride), cells)
    end = min(max((size - 1 - radius) // stride + 1, first), cells)
    return Span(first), Span(end - first, first), Span(cells - end, end)
