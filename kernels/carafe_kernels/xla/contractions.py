"""The three contractions, in plain XLA.

The reassembly ``y`` of Eqn. 3 is linear in the map ``x`` and in the weights ``w``. Hence all of
its derivatives, of any order, are contractions of one trilinear form ``sum(w * y * gather(x))``
over two of its arguments::

    forward          y from (x, w)
    input_gradient   x from (w, y)
    weight_gradient  w from (x, y)

None of them builds the patches, a tensor ``k * k`` times the size of ``x``.
:mod:`carafe_kernels.xla.cells` explains the letters in shape comments. ``kernels/README.md`` has
the formulations that were tried and their times.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes
from carafe_kernels.geometry import Dimension, Geometry, PhaseGroup, Reader
from carafe_kernels.xla.cells import (
    Rows,
    Span,
    join_outputs,
    split_outputs,
    split_sources,
    tap_view,
)

# A loop over memory holds one weight or one sum per term in a vector register. AVX-512 and NEON
# have 32 of them, and with more terms the loop spills registers. Passes of whole rows of taps keep
# the sources in the first-level cache.
_TERMS_PER_PASS = 25


def _passes[Term](rows: Sequence[Sequence[Term]]) -> list[list[Term]]:
    """Merges rows of terms into passes of at most :data:`_TERMS_PER_PASS`, rows kept whole."""
    passes: list[list[Term]] = []
    for row in rows:
        if passes and len(passes[-1]) + len(row) <= _TERMS_PER_PASS:
            passes[-1].extend(row)
        else:
            passes.append(list(row))
    return passes


def sum_in_passes(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Sums all terms. The barriers keep XLA from fusing the passes into one loop."""
    first, *others = _passes(rows)
    total = functools.reduce(jnp.add, first)
    for terms in others:
        total = functools.reduce(jnp.add, terms, lax.optimization_barrier(total))
    return total


def number_of_passes(rows: int, columns: int) -> int:
    """Number of passes of :func:`sum_in_passes` over ``rows`` of terms."""
    return len(_passes([range(columns)] * rows))


def sums_of_products(
    y: jax.Array, views: Sequence[Sequence[jax.Array]], axis: int
) -> list[jax.Array]:
    """Sums ``y`` times each view over an axis, in passes over memory, by row and then by column."""
    products = [[y * view for view in row] for row in views]
    # One reduction with many results reads y once, and finds x in the cache.
    return [
        total
        for terms in _passes(products)
        for total in lax.reduce(
            tuple(terms),
            tuple(jnp.zeros((), y.dtype) for _ in terms),
            lambda a, b: tuple(map(jnp.add, a, b)),
            dimensions=(axis,),
        )
    ]


def _concatenate_blocks(blocks: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Joins blocks ``[b, q, u, r, v, ...]`` along both phase axes. A single block is not copied."""
    rows = [lax.concatenate(list(row), 4) if len(row) > 1 else row[0] for row in blocks]
    return lax.concatenate(rows, 2) if len(rows) > 1 else rows[0]


def forward(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    geometry: Geometry,
    dtype: np.dtype,
    window: tuple[Span, Span] | None = None,
) -> Float[Array, "batch rows columns channels"]:
    """Reassembles ``x`` with ``weights`` (Eqn. 3).

    Args:
        x: feature map ``[B, H, W, C]``.
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        geometry: geometry of the reassembly.
        dtype: dtype of the sums and of the result.
        window: rows and columns of cells to compute; by default the whole output. The result ends
            where the output ends.

    Returns:
        The rescaled map ``[B, H', W', C]``, or its ``window``, in ``dtype``.
    """
    geometry = geometry.lowest_terms
    rows, columns = window or (Span(geometry.cells(x.shape[1])), Span(geometry.cells(x.shape[2])))
    cells = rows.count, columns.count
    sources = split_sources(x, geometry, rows, columns, dtype)  # [b, q', s, r', t, g, c]
    w = split_outputs(weights, geometry, rows, columns, dtype)  # [b, q, u, r, v, g, k]

    def block(u: PhaseGroup, v: PhaseGroup) -> jax.Array:
        (row_offset, u_start, u_stop), (column_offset, v_start, v_stop) = u, v
        w_block = w[:, :, u_start:u_stop, :, v_start:v_stop]
        terms = [
            [
                w_block[..., n * geometry.kernel_size + m, None]
                * tap_view(sources, geometry, cells, (row_offset + n, column_offset + m))
                for m in range(geometry.kernel_size)
            ]
            for n in range(geometry.kernel_size)
        ]
        return sum_in_passes(terms)  # [b, q, u, r, v, g, c]

    phases = geometry.phase_groups()
    y = _concatenate_blocks([[block(u, v) for v in phases] for u in phases])
    height, width = (
        size - span.first * geometry.up
        for size, span in zip(weights.shape[1:3], (rows, columns), strict=True)
    )
    return join_outputs(y, width)[:, :height]


def passes_of_forward(geometry: Geometry) -> int:
    """Number of passes over the sources for one output phase."""
    return number_of_passes(geometry.kernel_size, geometry.kernel_size)


def passes_of_input_gradient(geometry: Geometry) -> int:
    """Number of passes over ``y`` in an input gradient, summed over all source phases."""
    geometry = geometry.lowest_terms
    readers = [geometry.readers(phase) for phase in range(geometry.down)]
    return sum(
        number_of_passes(len(rows), len(columns))
        for rows, columns in itertools.product(readers, repeat=2)
    )


def input_gradient(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[Dimension, Dimension],
    dtype: np.dtype,
    rows: Rows | None = None,
) -> Float[Array, "batch rows width channels"]:
    """Computes the gradient of the map: for each source, the sum over the outputs that read it.

    Args:
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: geometry of the reassembly.
        size: height and width of the map, ``(H, W)``.
        dtype: dtype of the sums and of the result.
        rows: rows of cells to compute, with all ``down`` sources of the last cell; by default the
            whole map.

    Returns:
        The gradient ``[B, H, W, C]``, or ``rows.count * down`` rows of it, in ``dtype``.
    """
    geometry = geometry.lowest_terms
    down = geometry.down
    if rows is None:
        whole = Span(geometry.cells(size[0]))
        return input_gradient(weights, y, geometry, size, dtype, whole)[:, : size[0]]
    readers = [geometry.readers(phase) for phase in range(down)]
    shifts = [reader.cell_shift for phase in readers for reader in phase]
    before = max(0, -min(shifts))
    margin = before, max(0, *shifts)
    columns = Span(geometry.cells(size[1]))
    w = split_outputs(weights, geometry, rows, columns, dtype, margin)  # [b, q', u, r', v, g, k]
    y = split_outputs(y, geometry, rows, columns, dtype, margin)  # [b, q', u, r', v, g, c]

    def block(s: int, t: int) -> jax.Array:
        def term(row: Reader, column: Reader) -> jax.Array:
            q, r = before + row.cell_shift, before + column.cell_shift
            q_end, r_end = q + rows.count, r + columns.count
            at = (slice(None), slice(q, q_end), row.phase, slice(r, r_end), column.phase)
            return w[at][..., row.tap * geometry.kernel_size + column.tap, None] * y[at]

        rows_of_terms = [[term(row, column) for column in readers[t]] for row in readers[s]]
        if rows_of_terms and rows_of_terms[0]:
            total = sum_in_passes(rows_of_terms)
        else:  # the stride is longer than the kernel, and no tap reads this source
            total = jnp.zeros_like(y[:, : rows.count, 0, : columns.count, 0])
        return total[:, :, None, :, None]  # [b, q, 1, r, 1, g, c]

    x = _concatenate_blocks([[block(s, t) for t in range(down)] for s in range(down)])
    x = merge_axes(merge_axes(merge_axes(x, 5), 3), 1)
    return x[:, :, : size[1]]


def weight_gradient(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    dtype: np.dtype,
    rows: Rows | None = None,
    channels_at_once: int | None = None,
) -> Float[Array, "batch rows out_width weight_channels"]:
    """Computes the gradient of the weights: for each output, ``y`` times the sources of its taps.

    Args:
        x: feature map ``[B, H, W, C]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: geometry of the reassembly.
        dtype: dtype of the sums and of the result.
        rows: rows of cells to compute, with all ``up`` outputs of the last cell; by default the
            whole output.
        channels_at_once: largest number of channels of a group that one pass over memory sums; by
            default all of them.

    Returns:
        The gradient ``[B, H', W', groups * k * k]``, or ``rows.count * up`` rows of it, in
        ``dtype``.
    """
    geometry = geometry.lowest_terms
    if rows is None:
        whole = Span(geometry.cells(x.shape[1]))
        height = y.shape[1]
        return weight_gradient(x, y, geometry, dtype, whole, channels_at_once)[:, :height]
    columns = Span(geometry.cells(x.shape[2]))
    sources = split_sources(x, geometry, rows, columns, dtype)  # [b, q', s, r', t, g, c]
    y_cells = split_outputs(y, geometry, rows, columns, dtype)  # [b, q, u, r, v, g, c]

    def sums(u: PhaseGroup, v: PhaseGroup, channels: slice) -> list[jax.Array]:
        (row_offset, u_start, u_stop), (column_offset, v_start, v_stop) = u, v
        y_block = y_cells[:, :, u_start:u_stop, :, v_start:v_stop, :, channels]
        x_block = sources[..., channels]
        cells = rows.count, columns.count
        views = [
            [
                tap_view(x_block, geometry, cells, (row_offset + n, column_offset + m))
                for m in range(geometry.kernel_size)
            ]
            for n in range(geometry.kernel_size)
        ]
        return sums_of_products(y_block, views, axis=6)

    def block(u: PhaseGroup, v: PhaseGroup) -> jax.Array:
        channels = y_cells.shape[6]
        step = channels_at_once or channels
        totals = sums(u, v, slice(0, step))
        for start in range(step, channels, step):
            more = sums(u, v, slice(start, start + step))
            # Without the barrier XLA merges the passes into one.
            totals, more = lax.optimization_barrier((totals, more))
            totals = list(map(jnp.add, totals, more))
        return jnp.stack(totals, axis=-1)  # [b, q, u, r, v, g, k]

    phases = geometry.phase_groups()
    w = _concatenate_blocks([[block(u, v) for v in phases] for u in phases])
    return join_outputs(w, y.shape[2])
