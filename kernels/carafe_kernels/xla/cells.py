"""Splits maps, weights and results into cells, and joins cells to whole arrays.

:mod:`carafe_kernels.geometry` defines cells and phases. Shape comments use these letters: ``q`` and
``r`` for rows and columns of cells; ``u`` and ``v`` for the row and the column phase of an output;
``s`` and ``t`` for the phases of a source; ``g`` for groups; ``c`` for the channels of a group;
``k`` for taps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Dimension, Geometry
from carafe_kernels.xla.barriers import computed_once, stored_on_gpu


@dataclasses.dataclass(frozen=True)
class Span:
    """Consecutive rows of cells, or consecutive columns of cells.

    Args:
        count: number of rows or columns.
        first: index of the first row or column.
    """

    count: Dimension
    first: int = 0


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive rows of cells in one step of a loop, whose first row is a traced number.

    Args:
        count: number of rows.
        first: index of the first row, a traced number.
        last_first: largest value of ``first`` in the loop.
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
    """Splits an array of output size into cells: ``[b, H', W', n] -> [b, q, u, r, v, g, n/g]``.

    Args:
        array: array of output size, ``[b, H', W', n]``.
        geometry: geometry of the reassembly.
        rows: rows of cells to take. If the output ends inside the last cell, the rest of the cell
            is filled with zeros.
        columns: columns of cells to take. If the output ends inside the last cell, the rest of the
            cell is filled with zeros.
        dtype: dtype of the result.
        margin: number of cells to add before and after the rows and the columns. Values outside
            the array are zeros.
    """
    before, after = margin
    up, groups = geometry.up, geometry.groups
    cells = rows.count + before + after, columns.count + before + after
    size = cells[0] * up, cells[1] * up
    array = _zero_filled(array, rows, columns, up, -before * up, size, dtype)
    array = split_axis(split_axis(array, 2, cells[1], up), 1, cells[0], up)
    return split_axis(array, 5, groups, array.shape[5] // groups)


def join_outputs(array: jax.Array, width: Dimension) -> jax.Array:
    """Joins cells to whole rows: ``[b, q, u, r, v, ...] -> [b, q * u, W', n]``."""
    array = merge_axes(array, 5, array.ndim - 5)
    return merge_axes(merge_axes(array, 3), 1)[:, :, :width]


def split_sources(
    x: jax.Array, geometry: Geometry, rows: Rows, columns: Span, dtype: np.dtype
) -> jax.Array:
    """Splits the part of a map that some cells read: ``[b, H, W, n] -> [b, q', s, r', t, g, c]``.

    Let a phase of the output be centred at ``offset``. In every cell, tap ``i`` of that phase reads
    source phase ``(offset + i) % down`` of the cell that lies ``(offset + i) // down`` cells
    further on.

    Args:
        x: feature map ``[b, H, W, n]``.
        geometry: geometry of the reassembly.
        rows: rows of cells whose outputs read the map.
        columns: columns of cells whose outputs read the map.
        dtype: dtype of the result.
    """
    down, groups = geometry.down, geometry.groups
    last_tap = geometry.centre(geometry.up - 1) + geometry.kernel_size - 1
    cells = rows.count + last_tap // down, columns.count + last_tap // down
    # With a large stride no tap reads the last sources, which are cut off.
    size = cells[0] * down, cells[1] * down
    x = _zero_filled(x, rows, columns, down, -geometry.radius, size, dtype)
    if down == 1 and geometry.up > 1 and geometry.radius > 0:
        # A GPU then checks no border when it reads a tap, and reads four channels at once. The copy
        # is smaller than the output, unlike that of a map to downsample.
        x = stored_on_gpu(x)
    x = split_axis(split_axis(x, 2, cells[1], down), 1, cells[0], down)
    return split_axis(x, 5, groups, x.shape[5] // groups)


def tap_view(
    sources: jax.Array,
    geometry: Geometry,
    cells: tuple[Dimension, Dimension],
    taps: tuple[int, int],
) -> jax.Array:
    """The source that every cell reads at one tap: ``[b, q, 1, r, 1, g, c]``.

    Args:
        sources: the map from :func:`split_sources`.
        geometry: geometry of the reassembly.
        cells: number of rows and of columns of cells.
        taps: row and column of the tap, each plus the centre offset of the phase.
    """
    (row, s), (column, t) = (divmod(tap, geometry.down) for tap in taps)
    return sources[:, row : row + cells[0], s : s + 1, column : column + cells[1], t : t + 1]


def _zero_filled(
    array: jax.Array,
    rows: Rows,
    columns: Span,
    unit: int,
    offset: int,
    size: tuple[Dimension, Dimension],
    dtype: np.dtype,
) -> jax.Array:
    """Takes a window of an array, with zeros where the window lies outside the array.

    The window begins at row ``rows.first * unit + offset`` and column
    ``columns.first * unit + offset``.

    Args:
        array: map, weights or cotangent, ``[b, H, W, n]``.
        rows: rows of cells.
        columns: columns of cells.
        unit: number of rows, and of columns, of the array in a cell.
        offset: offset of the window from its first cell, at most 0.
        size: number of rows and columns of the window.
        dtype: dtype of the result.
    """
    height, width = array.shape[1:3]
    first_column = columns.first * unit + offset
    column_pad = -first_column, first_column + size[1] - width
    if isinstance(rows, Span):
        first_row = rows.first * unit + offset
        row_pad = -first_row, first_row + size[0] - height
        array = _pad_axes(array, row_pad, column_pad)
    else:
        # In a loop a slice has the same size in every step. So take a slice inside the array, pad
        # it by the most that any window needs, and slice the window from it.
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
    # A symbolic size is known only when the program runs, so it counts as padding.
    padded = any(not isinstance(pad, int) or pad > 0 for pad in (*row_pad, *column_pad))
    return computed_once(array) if padded else array


def _pad_axes(
    array: jax.Array, row_pad: tuple[Dimension, Dimension], column_pad: tuple[Dimension, Dimension]
) -> jax.Array:
    """Pads axes 1 and 2 with zeros; a negative width cuts instead."""
    zero = jnp.zeros((), array.dtype)
    return lax.pad(array, zero, [(0, 0, 0), (*row_pad, 0), (*column_pad, 0), (0, 0, 0)])
