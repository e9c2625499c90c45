"""Portable reassembly in plain XLA: runs on every backend, and is the reference of the others.

The reassembly ``y`` of Eqn. 3 is linear in the map ``x`` and in the weights ``w``. Hence all of
its derivatives, of any order, are the three contractions of one trilinear form
``sum(w * y * gather(x))``, each of which leaves one argument out::

    forward          y from (x, w)
    input_gradient   x from (w, y)
    weight_gradient  w from (x, y)

None of them builds the patches, a tensor ``k * k`` times the size of ``x``. Letters in shape
comments: ``q``, ``r`` rows and columns of cells (see :mod:`carafe_kernels.geometry`); ``u``, ``v``
output phases in a cell; ``s``, ``t`` source phases in a cell; ``g`` groups; ``c`` channels of a
group; ``k`` taps. What was tried and how fast it is stands in ``kernels/README.md``.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Geometry, PhaseGroup, Reader
from carafe_kernels.implementation import Implementation
from carafe_kernels.plan import Operands, Plan, Results, Slot

# A loop over memory holds one weight or one sum a term in a vector register, of which AVX-512
# and NEON have 32; with more terms it spills. Whole rows keep what it reads in the first cache.
_TERMS_PER_PASS = 25


def _pad_axes(array: jax.Array, row_pad: tuple[int, int], column_pad: tuple[int, int]) -> jax.Array:
    """Pads axes 1 and 2 with zeros; a negative width cuts instead."""
    zero = jnp.zeros((), array.dtype)
    return lax.pad(array, zero, [(0, 0, 0), (*row_pad, 0), (*column_pad, 0), (0, 0, 0)])


def _split_outputs(
    array: jax.Array, geometry: Geometry, cells: tuple[int, int], margin: tuple[int, int] = (0, 0)
) -> jax.Array:
    """Cuts an output-sized array into cells: ``[b, H', W', n] -> [b, q, u, r, v, n]``.

    A last cell that the output fills in part is completed with zeros, and ``margin`` cells of
    zeros are put before and after the map.
    """
    _, height, width, _ = array.shape
    up, (before, after) = geometry.up, margin
    rows, columns = (n + before + after for n in cells)
    array = _pad_axes(
        array,
        (before * up, (rows - before) * up - height),
        (before * up, (columns - before) * up - width),
    )
    return split_axis(split_axis(array, 2, columns, up), 1, rows, up)


def _join_outputs(array: jax.Array, size: tuple[int, int], geometry: Geometry) -> jax.Array:
    """Inverse of :func:`_split_outputs`: ``[b, q, u, r, v, ...] -> [b, H', W', n]``."""
    array = merge_axes(array, 5, array.ndim - 5)
    height, width = map(geometry.output_size, size)
    return merge_axes(merge_axes(array, 3), 1)[:, :height, :width]


def _split_sources(x: jax.Array, geometry: Geometry) -> jax.Array:
    """Cuts the zero-padded map into cells: ``[b, H, W, n] -> [b, q', s, r', t, g, c]``.

    Tap ``i`` of a phase centred at ``offset`` reads source phase ``(offset + i) % down`` of the
    cell that lies ``(offset + i) // down`` further on, for every cell alike.
    """
    _, height, width, _ = x.shape
    down, radius = geometry.down, geometry.radius
    last_tap = geometry.centre(geometry.up - 1) + geometry.kernel_size - 1
    rows, columns = (geometry.cells(n) + last_tap // down for n in (height, width))
    # A stride can leave sources at the end that no tap reads: the pad is negative there.
    x = _pad_axes(
        x,
        (radius, rows * down - height - radius),
        (radius, columns * down - width - radius),
    )
    x = split_axis(split_axis(x, 2, columns, down), 1, rows, down)
    return _split_groups(x, geometry)


def _split_groups(array: jax.Array, geometry: Geometry) -> jax.Array:
    """``[b, q, u, r, v, n] -> [b, q, u, r, v, g, n / g]``."""
    return split_axis(array, 5, geometry.groups, array.shape[5] // geometry.groups)


def _tap_view(
    sources: jax.Array, geometry: Geometry, cells: tuple[int, int], taps: tuple[int, int]
) -> jax.Array:
    """What every cell reads through one tap, centre offset included: ``[b, q, 1, r, 1, g, c]``."""
    (row, s), (column, t) = (divmod(tap, geometry.down) for tap in taps)
    return sources[:, row : row + cells[0], s : s + 1, column : column + cells[1], t : t + 1]


def _passes(rows: Sequence[Sequence[jax.Array]]) -> list[list[jax.Array]]:
    """Merges rows of terms into passes of at most :data:`_TERMS_PER_PASS`, rows kept whole."""
    passes: list[list[jax.Array]] = []
    for row in rows:
        if passes and len(passes[-1]) + len(row) <= _TERMS_PER_PASS:
            passes[-1].extend(row)
        else:
            passes.append(list(row))
    return passes


def _sum_in_passes(rows: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Sums all terms; the barriers keep XLA from fusing the passes into one loop."""
    first, *others = _passes(rows)
    total = functools.reduce(jnp.add, first)
    for terms in others:
        total = functools.reduce(jnp.add, terms, lax.optimization_barrier(total))
    return total


def _concatenate_blocks(blocks: Sequence[Sequence[jax.Array]]) -> jax.Array:
    """Joins blocks ``[b, q, u, r, v, ...]`` along both phase axes; a single one is not copied."""
    rows = [lax.concatenate(list(row), 4) if len(row) > 1 else row[0] for row in blocks]
    return lax.concatenate(rows, 2) if len(rows) > 1 else rows[0]


def forward(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    geometry: Geometry,
    dtype: jnp.dtype,
) -> Float[Array, "batch out_height out_width channels"]:
    """Reassembles ``x`` with ``weights`` (Eqn. 3), accumulating in ``dtype``."""
    geometry = geometry.lowest_terms
    size = x.shape[1], x.shape[2]
    cells = geometry.cells(size[0]), geometry.cells(size[1])
    sources = _split_sources(x.astype(dtype), geometry)
    w = _split_outputs(weights.astype(dtype), geometry, cells)
    w = _split_groups(w, geometry)  # [b, q, u, r, v, g, k]

    def block(u: PhaseGroup, v: PhaseGroup) -> jax.Array:
        (row_offset, u_start, u_stop), (column_offset, v_start, v_stop) = u, v
        w_block = w[:, :, u_start:u_stop, :, v_start:v_stop]
        terms = [
            [
                w_block[..., n * geometry.kernel_size + m, None]
                * _tap_view(sources, geometry, cells, (row_offset + n, column_offset + m))
                for m in range(geometry.kernel_size)
            ]
            for n in range(geometry.kernel_size)
        ]
        return _sum_in_passes(terms)  # [b, q, u, r, v, g, c]

    phases = geometry.phase_groups()
    y = _concatenate_blocks([[block(u, v) for v in phases] for u in phases])
    return _join_outputs(y, size, geometry)


def input_gradient(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[int, int],
    dtype: jnp.dtype,
) -> Float[Array, "batch height width channels"]:
    """Gathers, for each source pixel, ``weights * y`` from the outputs that read it."""
    geometry = geometry.lowest_terms
    down = geometry.down
    readers = [geometry.readers(phase) for phase in range(down)]
    shifts = [reader.cell_shift for phase in readers for reader in phase]
    before, after = max(0, -min(shifts)), max(0, *shifts)
    rows, columns = cells = geometry.cells(size[0]), geometry.cells(size[1])
    w = _split_outputs(weights.astype(dtype), geometry, cells, (before, after))
    w = _split_groups(w, geometry)  # [b, q', u, r', v, g, k]
    y = _split_outputs(y.astype(dtype), geometry, cells, (before, after))
    y = _split_groups(y, geometry)  # [b, q', u, r', v, g, c]

    def block(s: int, t: int) -> jax.Array:
        def term(row: Reader, column: Reader) -> jax.Array:
            q, r = before + row.cell_shift, before + column.cell_shift
            at = (slice(None), slice(q, q + rows), row.phase, slice(r, r + columns), column.phase)
            return w[at][..., row.tap * geometry.kernel_size + column.tap, None] * y[at]

        rows_of_terms = [[term(row, column) for column in readers[t]] for row in readers[s]]
        if rows_of_terms and rows_of_terms[0]:
            total = _sum_in_passes(rows_of_terms)
        else:  # a stride longer than the kernel steps over this source
            total = jnp.zeros_like(y[:, :rows, 0, :columns, 0])
        return total[:, :, None, :, None]  # [b, q, 1, r, 1, g, c]

    x = _concatenate_blocks([[block(s, t) for t in range(down)] for s in range(down)])
    x = merge_axes(merge_axes(merge_axes(x, 5), 3), 1)
    return x[:, : size[0], : size[1]]


def weight_gradient(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    dtype: jnp.dtype,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Correlates each output pixel of ``y`` with the sources that its taps read."""
    geometry = geometry.lowest_terms
    size = x.shape[1], x.shape[2]
    cells = geometry.cells(size[0]), geometry.cells(size[1])
    sources = _split_sources(x.astype(dtype), geometry)
    y = _split_outputs(y.astype(dtype), geometry, cells)
    y = _split_groups(y, geometry)

    def block(u: PhaseGroup, v: PhaseGroup) -> jax.Array:
        (row_offset, u_start, u_stop), (column_offset, v_start, v_stop) = u, v
        y_block = y[:, :, u_start:u_stop, :, v_start:v_stop]  # [b, q, u, r, v, g, c]
        products = [
            [
                y_block * _tap_view(sources, geometry, cells, (row_offset + n, column_offset + m))
                for m in range(geometry.kernel_size)
            ]
            for n in range(geometry.kernel_size)
        ]
        # One reduction with many results reads y once, and x from the cache.
        sums = [
            total
            for terms in _passes(products)
            for total in lax.reduce(
                tuple(terms),
                tuple(jnp.zeros((), dtype) for _ in terms),
                lambda a, b: tuple(map(jnp.add, a, b)),
                dimensions=(6,),
            )
        ]
        return jnp.stack(sums, axis=-1)  # [b, q, u, r, v, g, k]

    phases = geometry.phase_groups()
    w = _concatenate_blocks([[block(u, v) for v in phases] for u in phases])
    return _join_outputs(w, size, geometry)


def supports(plan: Plan, shape: tuple[Any, ...], device: jax.Device | None = None) -> str | None:
    """Says that XLA serves every contraction of weights, and none of logits."""
    del shape, device
    return None if plan.normalizer is None else "XLA fuses no normaliser into the contractions"


def contract(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    """Computes ``y``, ``x`` or ``weights``, see :class:`carafe_kernels.implementation.Contract`."""
    return tuple(_contracted(plan, result, operands) for result in results)


def _contracted(plan: Plan, result: Slot, operands: Operands) -> jax.Array:
    dtype = plan.accumulator
    match result:
        case "y":
            out = forward(operands["x"], operands["weights"], plan.geometry, dtype)
        case "x":
            out = input_gradient(
                operands["weights"], operands["y"], plan.geometry, plan.size, dtype
            )
        case "weights":
            out = weight_gradient(operands["x"], operands["y"], plan.geometry, dtype)
    return out.astype(plan.dtype(result))


IMPLEMENTATION = Implementation(contract, supports)
