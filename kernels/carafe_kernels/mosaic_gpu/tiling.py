"""Which part of a problem a block of the forward pass or the input gradient computes.

A block is one warpgroup of 128 threads with a tile of cells. Here a thread holds `vector` channels
of one row of the tile for all of its columns, so that what it loads serves several columns.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax.numpy as jnp

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import cost
from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, round_up
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
from carafe_kernels.mosaic_gpu.layouts import THREADS, kernel_block
from carafe_kernels.mosaic_gpu.problem import WORD, Problem
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS

MAX_SUMS = 72  # sums a thread keeps in registers beside what it loads
_CLOSE_RATIO = 1.1  # ratio of estimates that are too close to tell tiles apart


@dataclasses.dataclass(frozen=True)
class Tile:
    """Of the forward pass or the input gradient.

    Args:
        rows: cells, spread over the threads.
        columns: cells, all in each thread.
        vector: words of a thread; a word has one channel of 32 bits or two of 16.
        map_shape: buffers for the map that comes in, ``[slots, rows, row phases, columns * phases,
            words]``, with the halo and the rows that a copy must take along. With two slots the
            next channels come while these are computed.
        out_shape: buffer for the map that goes out, ``[rows, row phases, columns * phases,
            words]``.
        passes: parts that come into shared memory in turn, each some rows of output phases.
        group_channels: channels of a group after padding.
        chunks: steps over the channels of a group.
        cells: the weights or logits that are copied into shared memory at a time.
        weights: where logits are normalised to; ``None`` if in place, or if they are weights.
        nbytes: shared memory.
        cycles: an estimate for all blocks, see :mod:`carafe_kernels.mosaic_gpu.cost`.
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
        """Buffers for the map that comes in."""
        return self.map_shape[0]

    @property
    def words(self) -> int:
        """Words of a block at a time."""
        return self.out_shape[3]


# (rows, columns, channels a thread) by bytes of an element, best first. Channels of a block are
# THREADS * vector / rows: 64 where the map has as many. Wider columns save loads, until registers
# or shared memory run out.
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


def _group_channels(problem: Problem, channels: int) -> int:
    """Channels of a group after padding, for blocks of ``channels`` at a time.

    A step that reached into the next group would store its results there.
    """
    multiple = TMA_ALIGNMENT // problem.dtype.itemsize if problem.geometry.groups == 1 else channels
    return round_up(problem.group_channels, multiple)


def _channels_fit(problem: Problem, channels: int) -> bool:
    """Whether a block of half as many channels at a time would not hold all of them."""
    return channels <= max(16, 2 * (problem.group_channels - 1))


def _best(*kinds: Iterable[Tile]) -> Tile:
    """The first of the quickest tiles of which two blocks share a multiprocessor.

    One of the two computes while the other waits. The tiles of a later kind serve only where no
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
    """The tile for the forward pass; raises :class:`TooLargeError` if there is none."""
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
        halo_of_cells=0,
        passes=1,
        max_slots=max_slots,
    )
    try:
        return _best(tiles())
    except TooLargeError:
        return _best(tiles(any_channels=True))


@functools.cache
def input_gradient_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> Tile:
    """The tile for the input gradient; raises :class:`TooLargeError` if there is none."""
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
        halo_of_cells=sum(geometry.halo),
        max_slots=max_slots,
    )
    # In passes, weights are copied and normalised anew in each step over the channels.
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
    halo_of_cells: int,
    passes: int,
    max_slots: int,
    any_channels: bool = False,
) -> Iterator[Tile]:
    """Tiles that compute right, in the order of ``choices``.

    ``read`` and ``written`` are the phases of a cell in the map that comes in and in the one that
    goes out, which is ``width`` pixels wide. The rows and columns that the cells of a tile read
    are counted in pixels. Tiles of more channels than there are come with ``any_channels`` only.
    """
    geometry = problem.geometry
    halo = sum(geometry.halo)
    for rows, columns, vector in choices:
        channels = THREADS * vector // rows
        group_channels = _group_channels(problem, channels)
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
        # A pass takes a part, so that with several the rows of output phases lie apart in memory.
        parts = problem.parts if passes == 1 else geometry.up
        cells = cell_tile(
            rows + halo_of_cells,
            columns + halo_of_cells,
            parts // passes,
            geometry.up**2 * geometry.groups // parts,
            geometry.taps,
            problem.cells_dtype,
        )
        weights = _normalized_weights(cells, problem.normalizer)
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
            cell_halo=geometry.halo if halo_of_cells else (0, 0),
        )
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


def _normalized_weights(cells: CellTile, normalizer: str | None) -> CellTile | None:
    """Where normalised weights lie, if not in place.

    In place they need the room of the logits, and a thread for each kernel of a block: of two that
    normalise the same kernel, one could read what the other has overwritten.
    """
    if normalizer is None:
        return None
    in_place = cells.dtype == jnp.float32 and math.prod(kernel_block(*cells.shape[:3])) == THREADS
    return None if in_place else cells.normalized()
