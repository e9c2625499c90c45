"""Tiles of the forward pass and of the input gradient.

A block is one warpgroup of 128 threads, and computes a tile of cells. A thread computes some
channels of one row of the tile, for all columns, so that a pixel that it loads serves several
columns.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import cost
from carafe_kernels.mosaic_gpu.buffers import (
    SHARED_MEMORY,
    CellTile,
    TooLargeError,
    cell_tile,
    copied_rows,
    is_one_piece,
    shared_memory,
    two_blocks_fit,
)
from carafe_kernels.mosaic_gpu.layouts import THREADS
from carafe_kernels.mosaic_gpu.normalized_cells import normalized_weights
from carafe_kernels.mosaic_gpu.problem import WORD, Problem
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS

MAX_SUMS = 72  # sums that a thread can hold in registers, beside the values that it loads
_CLOSE_RATIO = 1.1  # two estimates within this ratio do not tell which tile is faster


@dataclasses.dataclass(frozen=True)
class Tile:
    """Tile of the forward pass or the input gradient.

    Args:
        rows: number of rows of cells, distributed over the threads.
        columns: number of columns of cells; each thread computes all of them.
        vector: number of words per thread; a word is one channel of 32 bits or two of 16 bits.
        map_shape: shape of the buffers for the input map, ``[slots, rows, row phases,
            columns * phases, words]``, with the halo and the rows that copies add. With two slots,
            the next channels are copied while the current ones are computed.
        out_shape: shape of the buffer for the output map, ``[rows, row phases, columns * phases,
            words]``.
        passes: number of passes; each copies some rows of output phases into shared memory.
        group_channels: number of channels of a group after padding.
        chunks: number of steps over the channels of a group.
        cells: buffer for the weights or logits of a pass.
        weights: buffer for normalised weights; ``None`` if logits are normalised in place, or if
            ``cells`` holds weights.
        nbytes: shared memory of a block in bytes.
        cycles: estimated cycles of all blocks, see :mod:`carafe_kernels.mosaic_gpu.cost`.
    """

    rows: int
    columns: int
    vector: int
    map_shape: tuple[int, int, int, int, int]
    out_shape: tuple[int, int, int, int]
    passes: int
    group_channels: int
    chunks: int
    cells: CellTile
    weights: CellTile | None
    nbytes: int
    cycles: int

    @property
    def slots(self) -> int:
        """Number of buffers for the input map."""
        return self.map_shape[0]

    @property
    def words(self) -> int:
        """Number of words of a pixel per step."""
        return self.out_shape[3]


# (rows, columns, channels per thread) by bytes of an element, best first. The channels of a block
# are THREADS * vector / rows, at best 64. More columns save loads, but need more registers and
# shared memory.
_FORWARD_TILES = {
    4: [(rows, columns, 4) for columns in (8, 4, 2, 1) for rows in (8, 16, 32)],
    2: [
        (rows, columns, vector)
        for vector in (8, 4)
        for columns in (8, 4, 2, 1)
        for rows in (2 * vector, 4 * vector, 32)
    ],
}
_INPUT_GRADIENT_TILES = {
    4: [
        (rows, columns, vector)
        for columns in (4, 2, 1)
        for rows, vector in ((8, 4), (16, 4), (8, 2), (16, 2), (32, 4), (32, 2))
    ],
    2: [
        (rows, columns, vector)
        for columns in (4, 2, 1)
        for rows, vector in ((16, 8), (32, 8), (8, 4), (16, 4), (32, 4))
    ],
}


def _channels_fit(problem: Problem, channels: int) -> bool:
    """Whether half of ``channels`` cannot hold a group in one step; true up to 16 channels."""
    return channels <= max(16, 2 * (problem.group_channels - 1))


def _best(*kinds: Iterable[Tile]) -> Tile:
    """The first of the fastest tiles with which two blocks fit on a multiprocessor.

    Then one block computes while the other waits. Tiles of a later kind are used only if no
    earlier kind has such a tile.
    """
    fitting = [[tile for tile in tiles if tile.nbytes <= SHARED_MEMORY] for tiles in kinds]
    for tiles in fitting:
        if shared := [tile for tile in tiles if two_blocks_fit(tile.nbytes)]:
            limit = _CLOSE_RATIO * min(tile.cycles for tile in shared)
            return next(tile for tile in shared if tile.cycles <= limit)
    alone = [tile for tiles in fitting for tile in tiles]
    if not alone:
        raise TooLargeError
    return alone[0]


@functools.cache
def forward_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> Tile:
    """The tile for the forward pass; raises :class:`TooLargeError` if no tile fits."""
    geometry = problem.geometry
    tiles = functools.partial(
        _tiles,
        problem,
        _FORWARD_TILES[problem.dtype.itemsize],
        read=geometry.down,
        written=geometry.up,
        rows_read=cost.source_columns(geometry, 1),
        columns_read=cost.source_columns,
        width=problem.output_size[1],
        cell_halo=(0, 0),
        passes=1,
        max_slots=max_slots,
    )
    try:
        return _best(tiles())
    except TooLargeError:
        return _best(tiles(any_channels=True))


@functools.cache
def input_gradient_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> Tile:
    """The tile for the input gradient; raises :class:`TooLargeError` if no tile fits."""
    geometry = problem.geometry
    tiles = functools.partial(
        _tiles,
        problem,
        _INPUT_GRADIENT_TILES[problem.dtype.itemsize],
        read=geometry.up,
        written=geometry.down,
        rows_read=cost.reading_columns(geometry, 1),
        columns_read=cost.reading_columns,
        width=problem.size[1],
        cell_halo=(geometry.halo[1], geometry.halo[0]),
        max_slots=max_slots,
    )
    # With several passes, weights are copied and normalised again in each step over the channels.
    in_passes = functools.partial(tiles, passes=geometry.up)
    try:
        return _best(tiles(passes=1), in_passes())
    except TooLargeError:
        return _best(tiles(passes=1, any_channels=True), in_passes(any_channels=True))


def _tiles(
    problem: Problem,
    choices: Sequence[tuple[int, int, int]],
    *,
    read: int,
    written: int,
    rows_read: int,
    columns_read: Callable[[Geometry, int], int],
    width: int,
    cell_halo: tuple[int, int],
    passes: int,
    max_slots: int,
    any_channels: bool = False,
) -> Iterator[Tile]:
    """Valid tiles, in the order of ``choices``.

    Args:
        problem: problem that the kernel computes.
        choices: rows of cells, columns of cells and channels per thread.
        read: number of phases of a cell in the input map, along an axis.
        written: number of phases of a cell in the output map, along an axis.
        rows_read: number of rows of pixels that one row of cells reads.
        columns_read: function that returns the number of columns of pixels that a number of
            columns of cells reads.
        width: width of the output map in pixels.
        cell_halo: numbers of cells before and after a tile, along an axis, whose weights it needs.
        passes: number of passes.
        max_slots: largest number of buffers for the input map.
        any_channels: whether to include tiles with more channels than the map has.
    """
    geometry = problem.geometry
    halo = sum(geometry.halo)
    for rows, columns, vector in choices:
        channels = THREADS * vector // rows
        group_channels = problem.padded_group_channels(channels)
        words = channels // problem.channels_of_a_word
        words_per_pixel = geometry.groups * group_channels // problem.channels_of_a_word
        out_shape = (rows, written, columns * written, words)
        out_array = (problem.cells[0], written, width, words_per_pixel)
        if (
            columns * written**2 * vector > MAX_SUMS
            or not (any_channels or _channels_fit(problem, channels))
            or is_one_piece(out_shape, out_array)
        ):
            continue
        # With several passes, each pass copies one part, a row of output phases.
        parts = problem.parts if passes == 1 else geometry.up
        cells = cell_tile(
            rows,
            columns,
            parts // passes,
            geometry.up**2 * geometry.groups // parts,
            geometry.taps,
            problem.cells_dtype,
            cell_halo,
        )
        weights = normalized_weights(cells, problem.normalizer)
        row_shape = (read // passes, (columns + halo) * read, words)
        row_bytes = math.prod(row_shape) * WORD
        map_rows = copied_rows(rows + halo, row_bytes)
        chunks = -(-group_channels // channels)
        cycles = cost.cycles(
            problem,
            rows=rows,
            columns=columns,
            vector=vector // problem.channels_of_a_word,
            steps=geometry.groups * chunks,
            loads=rows_read * columns_read(geometry, columns),
            halo=geometry.halo,
            map_bytes=(WORD * words_per_pixel * read**2, WORD * words_per_pixel * written**2),
            cell_bytes=parts * cells.padded_kernels * cells.taps * cells.dtype.itemsize,
            cell_halo=cell_halo,
            lead=cells.lead,
        )
        if cells.padded_kernels > cells.kernels:
            entries = parts * (cells.kernels + cells.padded_kernels) * cells.taps
            cycles += cost.copy_cycles(problem, entries * cells.dtype.itemsize)
        for slots in range(max_slots if passes == 1 else 1, 0, -1):
            yield Tile(
                rows,
                columns,
                vector // problem.channels_of_a_word,
                (slots, map_rows, *row_shape),
                out_shape,
                passes,
                group_channels,
                chunks,
                cells,
                weights,
                shared_memory(
                    cells.nbytes,
                    weights.nbytes if weights else 0,
                    slots * map_rows * row_bytes,
                    math.prod(out_shape) * WORD,
                ),
                cycles,
            )
