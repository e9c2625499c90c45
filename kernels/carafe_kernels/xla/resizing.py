"""The three contractions at any scale, in plain XLA.

:mod:`carafe_kernels.xla.contractions` computes the same sums for scales whose pattern of centres
repeats. Here the centres are listed (:class:`carafe_kernels.geometry.Axis`). A tap reads the rows
and then the columns that it lists, which XLA fuses into the loop over the output.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Geometry, Resize
from carafe_kernels.xla.barriers import computed_once
from carafe_kernels.xla.cells import Block, Rows, Span
from carafe_kernels.xla.contractions import sum_in_passes, sums_of_products
from carafe_kernels.xla.loops import in_blocks, rows_of_block

# With more outputs of a source than this, the gradient of the map first sums over them in matrix
# products. The program would otherwise have a term for each tap and output of a source.
_MOST_SLOTS_OF_TERMS = 16


def resized_forward(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
) -> Float[Array, "batch out_height out_width channels"]:
    """Reassembles ``x`` with ``weights`` (Eqn. 3).

    Args:
        x: feature map ``[B, H, W, C]``.
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        geometry: size and groups of the kernels.
        resize: the centres of the outputs.
        dtype: dtype of the sums and of the result.

    Returns:
        The rescaled map ``[B, H', W', C]`` in ``dtype``.
    """
    sources = _with_border(x, geometry, dtype)  # [b, H + 2r, W + 2r, g, c]
    w = _by_group(weights.astype(dtype), geometry)  # [b, H', W', g, k]
    views = _tap_views(sources, geometry, resize.rows.centres(), resize.columns.centres())
    terms = [
        [w[..., n * geometry.kernel_size + m, None] * view for m, view in enumerate(row)]
        for n, row in enumerate(views)
    ]
    return merge_axes(sum_in_passes(terms), 3)


def resized_input_gradient(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
    rows: Rows | None = None,
) -> Float[Array, "batch rows width channels"]:
    """Computes the gradient of the map: for each source, the sum over the outputs that read it.

    The outputs are first sorted by the source on which they are centred. Every source has room for
    as many outputs as the source with the most outputs, which is zero where there are fewer.

    Args:
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: size and groups of the kernels.
        resize: the centres of the outputs.
        dtype: dtype of the sums and of the result.
        rows: rows of the map to compute; by default all.

    Returns:
        The gradient ``[B, H, W, C]``, or ``rows.count`` rows of it, in ``dtype``.
    """
    rows = rows or Span(resize.rows.sources)
    if _slots(resize) > _MOST_SLOTS_OF_TERMS:
        return _input_gradient_by_products(weights, y, geometry, resize, dtype, rows)
    k, reach = geometry.kernel_size, 2 * geometry.radius
    margins = geometry.radius, geometry.radius
    w = _by_source(weights, geometry, resize, dtype, rows, margins)
    y = _by_source(y, geometry, resize, dtype, rows, margins)
    height, width = rows.count, resize.columns.sources

    def term(n: int, u: int, m: int, v: int) -> jax.Array:
        # Tap n reads the source s from the outputs centred on s - n + r, in row s - n + 2r.
        i, j = reach - n, reach - m
        at = (slice(None), slice(i, i + height), u, slice(j, j + width), v)
        return w[at][..., n * k + m, None] * y[at]  # [b, H, W, g, c]

    terms = [
        [term(n, u, m, v) for m in range(k) for v in range(y.shape[4])]
        for n in range(k)
        for u in range(y.shape[2])
    ]
    return merge_axes(sum_in_passes(terms), 3)


def resized_weight_gradient(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Computes the gradient of the weights: for each output, ``y`` times the sources of its taps.

    Args:
        x: feature map ``[B, H, W, C]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: size and groups of the kernels.
        resize: the centres of the outputs.
        dtype: dtype of the sums and of the result.

    Returns:
        The gradient ``[B, H', W', groups * k * k]`` in ``dtype``.
    """
    # Without the barrier XLA merges the reads with those of the forward pass, and then keeps what
    # every tap reads in memory.
    sources, y = lax.optimization_barrier((_with_border(x, geometry, dtype), y))
    return _weight_gradient(sources, y, geometry, resize, dtype, Span(resize.rows.outputs))


def resized_input_gradient_in_blocks(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
    result_dtype: np.dtype,
    block_bytes: int,
) -> Float[Array, "batch height width channels"]:
    """Computes :func:`resized_input_gradient` in a loop over blocks of rows, for a CPU.

    Args:
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: size and groups of the kernels.
        resize: the centres of the outputs.
        dtype: dtype of the sums.
        result_dtype: dtype of the result.
        block_bytes: approximate size in bytes of the part of ``y`` in a block, in ``dtype``.

    Returns:
        The gradient ``[B, H, W, C]`` in ``result_dtype``.
    """

    def block(weights: jax.Array, y: jax.Array, rows: Rows) -> jax.Array:
        part = resized_input_gradient(weights, y, geometry, resize, dtype, rows)
        return part.astype(result_dtype)

    height = resize.rows.sources
    slots = _slots(resize)
    row_bytes = slots * resize.columns.sources * y.shape[3] * dtype.itemsize
    least = geometry.kernel_size
    rows = rows_of_block(y.shape[0], height, row_bytes, block_bytes, at_least=least)
    if slots > _MOST_SLOTS_OF_TERMS and height < 2 * least:
        rows = height  # the margins of a smaller block would have about as many rows as the block
    return in_blocks(block, (weights, y), height, rows)[:, :height]


def resized_weight_gradient_in_blocks(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
    result_dtype: np.dtype,
    block_bytes: int,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Computes :func:`resized_weight_gradient` in a loop over blocks of rows, for a CPU.

    Args:
        x: feature map ``[B, H, W, C]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: size and groups of the kernels.
        resize: the centres of the outputs.
        dtype: dtype of the sums.
        result_dtype: dtype of the result.
        block_bytes: approximate size in bytes of the part of ``y`` in a block, in ``dtype``.

    Returns:
        The gradient ``[B, H', W', groups * k * k]`` in ``result_dtype``.
    """

    def block(sources: jax.Array, y: jax.Array, rows: Rows) -> jax.Array:
        part = _weight_gradient(sources, y, geometry, resize, dtype, rows)
        return part.astype(result_dtype)

    sources = computed_once(_with_border(x, geometry, dtype))
    height = resize.rows.outputs
    row_bytes = math.prod(y.shape[2:]) * dtype.itemsize
    rows = rows_of_block(y.shape[0], height, row_bytes, block_bytes, at_least=2)
    return in_blocks(block, (sources, y), height, rows)[:, :height]


def _slots(resize: Resize) -> int:
    """The largest number of outputs of a source."""
    axes = resize.rows, resize.columns
    return math.prod(axis.outputs_by_source().shape[1] for axis in axes)


def _input_gradient_by_products(
    weights: jax.Array,
    y: jax.Array,
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
    rows: Rows,
) -> jax.Array:
    """Computes the gradient of the map: a matrix product for each source, then a sum over taps."""
    k, radius, reach = geometry.kernel_size, geometry.radius, 2 * geometry.radius
    # No output is centred outside the map, and a sorted margin would have as many slots as the map
    # has. So the products are padded instead. Only rows around a block are sorted: they may lie in
    # the map.
    margins = (0 if isinstance(rows, Span) else radius, 0)
    w = _by_source(weights, geometry, resize, dtype, rows, margins)
    y = _by_source(y, geometry, resize, dtype, rows, margins)
    # [b, H, W, g, k, c]: for each tap, the sum over the outputs of a source.
    products = jnp.einsum("bqurvgk,bqurvgc->bqrgkc", w, y, precision=lax.Precision.HIGHEST)
    missing = [(radius - margin, radius - margin) for margin in margins]
    products = jnp.pad(products, ((0, 0), *missing, (0, 0), (0, 0), (0, 0)))
    height, width = rows.count, resize.columns.sources
    taps = [
        [products[:, reach - n :, reach - m :, :, n * k + m][:, :height, :width] for m in range(k)]
        for n in range(k)
    ]
    return merge_axes(sum_in_passes(taps), 3)


def _by_source(
    array: jax.Array,
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
    rows: Rows,
    margins: tuple[int, int],
) -> jax.Array:
    """Sorts an array of output size by the source of its centre: ``[b, H, u, W, v, g, n]``.

    Args:
        array: array of output size, ``[b, H', W', groups * n]``.
        geometry: size and groups of the kernels.
        resize: the centres of the outputs.
        dtype: dtype of the result.
        rows: rows of sources to take.
        margins: number of rows to add before and after ``rows``, and of columns before and after
            the map.
    """
    of_rows = resize.rows.outputs_by_source(margins[0])  # [H + 2 * margin, u]
    of_columns = resize.columns.outputs_by_source(margins[1])
    height = rows.count + 2 * margins[0]
    part = _part(of_rows, rows, height, resize.rows.outputs)
    for axis, slots in ((1, part), (2, of_columns)):
        # The index that is no output reads a zero.
        array = jnp.take(array, slots.reshape(-1), axis, mode="fill", fill_value=0)
    array = split_axis(array.astype(dtype), 2, *of_columns.shape)
    array = split_axis(array, 1, height, of_rows.shape[1])
    return computed_once(_by_group(array, geometry, 5))


def _weight_gradient(
    sources: jax.Array,
    y: jax.Array,
    geometry: Geometry,
    resize: Resize,
    dtype: np.dtype,
    rows: Rows,
) -> jax.Array:
    """Computes rows of the gradient of the weights from the map with its border."""
    outputs = resize.rows.outputs
    if isinstance(rows, Block):
        y = jnp.take(y, _part(np.arange(outputs), rows, rows.count, outputs - 1), 1, mode="clip")
    y = _by_group(y.astype(dtype), geometry)  # [b, rows, W', g, c]
    centres = _part(resize.rows.centres(), rows, rows.count, 0)
    views = _tap_views(sources, geometry, centres, resize.columns.centres())
    totals = sums_of_products(y, views, axis=4)
    return merge_axes(jnp.stack(totals, axis=-1), 3)


def _with_border(x: jax.Array, geometry: Geometry, dtype: np.dtype) -> jax.Array:
    """Adds the zeros that taps read outside the map: ``[b, H + 2r, W + 2r, g, c]``."""
    pad = (geometry.radius, geometry.radius, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), pad, pad, (0, 0, 0)])
    return _by_group(x.astype(dtype), geometry)


def _by_group(array: jax.Array, geometry: Geometry, axis: int = 3) -> jax.Array:
    return split_axis(array, axis, geometry.groups, array.shape[axis] // geometry.groups)


def _tap_views(
    sources: jax.Array,
    geometry: Geometry,
    rows: np.ndarray | jax.Array,
    columns: np.ndarray,
) -> list[list[jax.Array]]:
    """The source that every output reads at each tap, ``[b, H', W', g, c]``, by row of taps."""
    taps = range(geometry.kernel_size)
    views = []
    for n in taps:
        row = jnp.take(sources, rows + n, 1, mode="clip")
        views.append([jnp.take(row, columns + m, 2, mode="clip") for m in taps])
    return views


def _part(indices: np.ndarray, rows: Rows, count: int, fill: int) -> np.ndarray | jax.Array:
    """The ``count`` indices from the first of ``rows``, with ``fill`` after the last index."""
    if isinstance(rows, Span):
        return indices  # a span is the whole axis
    missing = max(0, rows.last_first + count - len(indices))
    pad = [(0, missing), *[(0, 0)] * (indices.ndim - 1)]
    padded = jnp.asarray(np.pad(indices, pad, constant_values=fill))
    return lax.dynamic_slice_in_dim(padded, rows.first, count)
