"""Maps, weights and results cut into cells, and joined again.

Letters in shape comments: ``q``, ``r`` rows and columns of cells (see
:mod:`carafe_kernels.geometry`); ``u``, ``v`` output phases in a cell; ``s``, ``t`` source phases in
a cell; ``g`` groups; ``c`` channels of a group; ``k`` taps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Geometry
from carafe_kernels.xla.barriers import computed_once


@dataclasses.dataclass(frozen=True)
class Span:
    """Consecutive rows of cells, or consecutive columns.

    Args:
        count: how many there are.
        first: the first of them.
    """

    count: int
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of cells from a row on that only a loop knows.

    Args:
        count: how many there are.
        first: the first of them, a traced number.
        last_first: the largest number that ``first`` can be.
    """

    count: int
    first: jax.Array
    last_first: int


type Rows = Span | Block


def split_outputs(
    array: jax.Array,
    geometry: Geometry,
    rows: Rows,
    columns: Span,
    dtype: np.dtype,
    margin: tuple[int, int] = (0, 0),
) -> jax.Array:
    """Cuts an output-sized array into cells: ``[b, H', W', n] -> [b, q, u, r, v, g, n/g]``.

    Args:
        array: ``[b, H', W', n]``.
        geometry: shape of the reassembly.
        rows: the rows of cells to take. A last cell that the output fills in part is completed
            with zeros.
        columns: the columns of cells to take, completed as rows are.
        dtype: to convert to.
        margin: how many cells to add before and after, with zeros where they lie outside the array.
    """
    before, after = margin
    up, groups = geometry.up, geometry.groups
    cells = rows.count + before + after, columns.count + before + after
    size = cells[0] * up, cells[1] * up
    array = _zero_filled(array, rows, columns, up, -before * up, size, dtype)
    array = split_axis(split_axis(array, 2, cells[1], up), 1, cells[0], up)
    return split_axis(array, 5, groups, array.shape[5] // groups)


def join_outputs(array: jax.Array, width: int) -> jax.Array:
    """Joins whole cells again: ``[b, q, u, r, v, ...] -> [b, q * u, W', n]``."""
    array = merge_axes(array, 5, array.ndim - 5)
    return merge_axes(merge_axes(array, 3), 1)[:, :, :width]


def split_sources(
    x: jax.Array, geometry: Geometry, rows: Rows, columns: Span, dtype: np.dtype
) -> jax.Array:
    """Cuts what some cells read of the map into cells: ``[b, H, W, n] -> [b, q', s, r', t, g, c]``.

    Tap ``i`` of a phase centred at ``offset`` reads source phase ``(offset + i) % down`` of the
    cell that lies ``(offset + i) // down`` further on, for every cell alike.

    Args:
        x: ``[b, H, W, n]``.
        geometry: shape of the reassembly.
        rows: the rows of cells that read.
        columns: the columns of cells that read.
        dtype: to convert to.
    """
    down, groups = geometry.down, geometry.groups
    last_tap = geometry.centre(geometry.up - 1) + geometry.kernel_size - 1
    cells = rows.count + last_tap // down, columns.count + last_tap // down
    # A stride can leave sources at the end that no tap reads: they are cut off.
    size = cells[0] * down, cells[1] * down
    x = _zero_filled(x, rows, columns, down, -geometry.radius, size, dtype)
    x = split_axis(split_axis(x, 2, cells[1], down), 1, cells[0], down)
    return split_axis(x, 5, groups, x.shape[5] // groups)


def tap_view(
    sources: jax.Array, geometry: Geometry, cells: tuple[int, int], taps: tuple[int, int]
) -> jax.Array:
    """What every cell reads through one tap, centre offset included: ``[b, q, 1, r, 1, g, c]``."""
    (row, s), (column, t) = (divmod(tap, geometry.down) for tap in taps)
    return sources[:, row : row + cells[0], s : s + 1, column : column + cells[1], t : t + 1]


def _zero_filled(
    array: jax.Array,
    rows: Rows,
    columns: Span,
    unit: int,
    offset: int,
    size: tuple[int, int],
    dtype: np.dtype,
) -> jax.Array:
    """A window of an array, with zeros where it reaches beyond.

    Args:
        array: ``[b, H, W, n]``.
        rows: the rows of cells from whose first one the window begins.
        columns: the columns of cells from whose first one it begins.
        unit: how many rows and columns of the array a cell has.
        offset: where the window begins: at row ``rows.first * unit + offset`` and column
            ``columns.first * unit + offset``. At most 0.
        size: of the window, in rows and columns.
        dtype: to convert to.
    """
    height, width = array.shape[1:3]
    first_column = columns.first * unit + offset
    column_pad = -first_column, first_column + size[1] - width
    if isinstance(rows, Span):
        first_row = rows.first * unit + offset
        row_pad = -first_row, first_row + size[0] - height
        array = _pad_axes(array, row_pad, column_pad)
    else:
        # A slice in a loop has one size everywhere, so it is taken inside the array, then padded
        # by what any window lacks, and cut once more where this one begins.
        start = rows.first * unit + offset
        lacking = rows.last_first * unit + offset + size[0] - height
        row_pad = max(0, -offset), max(0, lacking)
        taken = min(size[0], height)
        inside = jnp.clip(start, 0, height - taken)
        array = lax.dynamic_slice_in_dim(array, inside, taken, 1)
        array = _pad_axes(array, row_pad, column_pad)
        if any(row_pad):
            array = lax.dynamic_slice_in_dim(array, start - inside + row_pad[0], size[0], 1)
    array = array.astype(dtype)
    # A symbolic size is a number only where a program runs.
    padded = any(not isinstance(pad, int) or pad > 0 for pad in (*row_pad, *column_pad))
    return computed_once(array) if padded else array


def _pad_axes(array: jax.Array, row_pad: tuple[int, int], column_pad: tuple[int, int]) -> jax.Array:
    """Pads axes 1 and 2 with zeros; a negative width cuts instead."""
    zero = jnp.zeros((), array.dtype)
    return lax.pad(array, zero, [(0, 0, 0), (*row_pad, 0), (*column_pad, 0), (0, 0, 0)])
