"""Which part of a problem a block computes.

A block is one warpgroup of 128 threads with a tile of cells. In the forward pass and the input
gradient a thread holds `vector` channels of one row of the tile for all of its columns, so that
what it loads serves several columns. In the weight gradient a thread holds one cell and all of its
taps, and reads channel after channel.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, aligned, round_up
from carafe_kernels.mosaic_gpu.layouts import THREADS, WARPS, cell_block
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS

WORD = 4  # bytes
# Bytes of shared memory on compute capability 9.0 and 10.0.
SHARED_MEMORY = 232_448  # that one block may have
_MULTIPROCESSOR_MEMORY = 233_472  # for all blocks of a multiprocessor
_RESERVED = 1024  # of each block, for the system
MAX_BOX = 256  # elements of an axis that one copy moves
MAX_SUMS = 72  # sums a thread keeps in registers beside what it loads
MAX_WEIGHT_SUMS = 110  # the same in the weight gradient, which loads less
_COPY_ALIGNMENT = 128  # bytes; what a copy into shared memory starts at and moves multiples of


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a kernel is compiled for.

    Args:
        geometry: in lowest terms.
        batch: number of maps.
        size: ``(H, W)`` of the source map.
        channels: of all groups together.
        dtype: of the maps.
        cells_dtype: of the weights or logits.
        normalizer: what turns logits into weights; ``None`` where weights are given.
    """

    geometry: Geometry
    batch: int
    size: tuple[int, int]
    channels: int
    dtype: np.dtype
    cells_dtype: np.dtype
    normalizer: str | None = None

    @property
    def cells(self) -> tuple[int, int]:
        height, width = map(self.geometry.cells, self.size)
        return height, width

    @property
    def output_size(self) -> tuple[int, int]:
        height, width = map(self.geometry.output_size, self.size)
        return height, width

    @property
    def group_channels(self) -> int:
        return self.channels // self.geometry.groups


_BUFFER_ALIGNMENT = 1024  # bytes; each buffer takes whole multiples


def shared_memory(*buffers: int) -> int:
    """Bytes that buffers take, and barriers with them."""
    return sum(round_up(nbytes, _BUFFER_ALIGNMENT) for nbytes in (*buffers, _BUFFER_ALIGNMENT))


def copied_rows(rows: int, row_bytes: int) -> int:
    """``rows``, and as many more as a copy into shared memory must take along."""
    return round_up(rows, _COPY_ALIGNMENT // math.gcd(row_bytes, _COPY_ALIGNMENT))


@dataclasses.dataclass(frozen=True)
class CellTile:
    """Weights or logits of a tile of cells in shared memory.

    Entry ``((u * up + v) * groups + g) * taps + tap`` of a cell lies in box ``entry // box``. The
    boxes of a column are rows of their own: rows at odd multiples of 16 bytes keep threads that
    read different rows out of each other's memory banks.
    """

    rows: int
    columns: int
    entries: int
    dtype: np.dtype

    @property
    def boxes(self) -> int:
        return -(-aligned(self.entries, self.dtype) // MAX_BOX)

    @property
    def box(self) -> int:
        return aligned(-(-self.entries // self.boxes), self.dtype)

    @property
    def padded_rows(self) -> int:
        rows = copied_rows(self.rows, self.box * self.dtype.itemsize)
        return round_up(rows, 2 * WARPS)  # so that warps can share them out

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of the buffer; the axis of one is that of the column in the array."""
        return self.boxes, self.columns, self.padded_rows, 1, self.box

    @property
    def copies(self) -> int:
        return self.boxes * self.columns

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def normalized(self) -> "CellTile":
        """Room for the weights of the same cells, rows that copies fill up included."""
        return dataclasses.replace(self, rows=self.padded_rows, dtype=np.dtype(np.float32))


@dataclasses.dataclass(frozen=True)
class Tile:
    """Of the forward pass or the input gradient.

    Args:
        rows: cells, spread over the threads.
        columns: cells, all in each thread.
        vector: channels of a thread.
        map_shape: buffers for the map that comes in, ``[slots, rows, row phases, columns * phases,
            channels]``, with the halo and the rows that a copy must take along. With two slots the
            next channels come while these are computed.
        out_shape: buffer for the map that goes out, ``[rows, row phases, columns * phases,
            channels]``.
        passes: parts that come into shared memory in turn, each some rows of output phases.
        group_channels: channels of a group after padding.
        cells: the weights or logits that are copied into shared memory at a time.
        weights: where logits are normalised to; ``None`` if in place, or if they are weights.
        nbytes: shared memory.
    """

    rows: int
    columns: int
    vector: int
    map_shape: tuple[int, int, int, int, int]
    out_shape: tuple[int, int, int, int]
    passes: int
    group_channels: int
    cells: CellTile
    weights: CellTile | None
    nbytes: int

    @property
    def slots(self) -> int:
        """Buffers for the map that comes in."""
        return self.map_shape[0]

    @property
    def channels(self) -> int:
        """Channels of a block at a time."""
        return self.out_shape[3]

    @property
    def chunks(self) -> int:
        """Steps over the channels of a group."""
        return -(-self.group_channels // self.channels)


@dataclasses.dataclass(frozen=True)
class WeightTile:
    """Of the weight gradient.

    Args:
        rows: cells; ``rows * columns`` is the number of threads.
        columns: cells.
        channels: at a time.
        row_phases: rows of output phases of a block.
        column_phases: columns of output phases of a block.
        group_channels: channels of a group after padding.
        cells: the gradients of the block.
        nbytes: shared memory.
    """

    rows: int
    columns: int
    channels: int
    row_phases: int
    column_phases: int
    group_channels: int
    cells: CellTile
    nbytes: int

    def words(self, dtype: np.dtype) -> int:
        """Words of 32 bits that the channels fill."""
        return self.channels * dtype.itemsize // WORD

    def pitch(self, dtype: np.dtype) -> int:
        """Words from one place of a map in shared memory to the next.

        An odd multiple of 16 bytes, so that threads which read 16 bytes at neighbouring places
        use different memory banks.
        """
        unit = TMA_ALIGNMENT // WORD
        return unit * (self.words(dtype) // unit | 1)

    def source_rows(self, geometry: Geometry, dtype: np.dtype) -> int:
        """Rows of cells of the source map in shared memory."""
        columns = geometry.down * (self.columns + sum(geometry.halo))
        row_bytes = columns * self.pitch(dtype) * WORD
        return copied_rows(self.rows + sum(geometry.halo), row_bytes)


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
_WEIGHT_GRADIENT_TILES = [(8, 16), (16, 8)]  # (rows, columns)
_WEIGHT_GRADIENT_CHANNELS = (64, 32, 16, 8)


def _group_channels(problem: Problem, channels: int) -> int:
    """Channels of a group after padding, for blocks of ``channels`` at a time.

    A step that reached into the next group would store its results there.
    """
    multiple = TMA_ALIGNMENT // problem.dtype.itemsize if problem.geometry.groups == 1 else channels
    return round_up(problem.group_channels, multiple)


def is_one_piece(box: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether ``box`` is contiguous in an array of ``shape``; an axis of one place never matters.

    Such a box is copied as one piece, clipped at the end of the array only: where a tile reaches
    over the end of an axis, it would overwrite what comes next.
    """
    expected = stride = 1
    for size, length in zip(reversed(box), reversed(shape), strict=True):
        if size != 1 and stride != expected:
            return False
        expected, stride = expected * size, stride * length
    return True


def _channels_fit(problem: Problem, channels: int) -> bool:
    """Whether no smaller block would hold all channels."""
    return channels <= max(16, 2 * (problem.group_channels - 1))


class TooLargeError(ValueError):
    """No tile of a problem fits into the shared memory of a block."""


def _first_that_fits(tiles: Iterator[Tile]) -> Tile:
    """The first tile of which two blocks share a multiprocessor: one computes, one waits."""
    alone = None
    for tile in tiles:
        if 2 * (tile.nbytes + _RESERVED) <= _MULTIPROCESSOR_MEMORY:
            return tile
        if alone is None and tile.nbytes <= SHARED_MEMORY:
            alone = tile
    if alone is None:
        raise TooLargeError
    return alone


@functools.cache
def forward_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> Tile:
    """The tile for the forward pass; raises :class:`TooLargeError` if there is none."""
    geometry = problem.geometry
    tiles = _tiles(
        problem,
        _FORWARD_TILES[problem.dtype.itemsize],
        read=geometry.down,
        written=geometry.up,
        width=problem.output_size[1],
        halo_of_cells=0,
        passes=1,
        max_slots=max_slots,
    )
    return _first_that_fits(tiles)


@functools.cache
def input_gradient_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> Tile:
    """The tile for the input gradient; raises :class:`TooLargeError` if there is none."""
    geometry = problem.geometry
    tiles = (
        _tiles(
            problem,
            _INPUT_GRADIENT_TILES[problem.dtype.itemsize],
            read=geometry.up,
            written=geometry.down,
            width=problem.size[1],
            halo_of_cells=sum(geometry.halo),
            passes=passes,
            max_slots=max_slots,
        )
        for passes in sorted({1, geometry.up})
    )
    return _first_that_fits(itertools.chain.from_iterable(tiles))


def _tiles(
    problem: Problem,
    choices: Sequence[tuple[int, int, int]],
    *,
    read: int,
    written: int,
    width: int,
    halo_of_cells: int,
    passes: int,
    max_slots: int,
) -> Iterator[Tile]:
    """Tiles that compute right, in the order of ``choices``.

    ``read`` and ``written`` are the phases of a cell in the map that comes in and in the one that
    goes out, which is ``width`` pixels wide.
    """
    geometry, itemsize = problem.geometry, problem.dtype.itemsize
    halo = sum(geometry.halo)
    for rows, columns, vector in choices:
        channels = THREADS * vector // rows
        group_channels = _group_channels(problem, channels)
        out_shape = (rows, written, columns * written, channels)
        out_array = (problem.cells[0], written, width, geometry.groups * group_channels)
        if (
            columns * written**2 * vector > MAX_SUMS
            or not _channels_fit(problem, channels)
            or is_one_piece(out_shape, out_array)
        ):
            continue
        cells = CellTile(
            rows + halo_of_cells,
            columns + halo_of_cells,
            geometry.logit_channels // passes,
            problem.cells_dtype,
        )
        weights = _weights_apart(cells, problem.normalizer)
        row_shape = (read // passes, (columns + halo) * read, channels)
        row_bytes = math.prod(row_shape) * itemsize
        map_rows = copied_rows(rows + halo, row_bytes)
        for slots in range(max_slots if passes == 1 else 1, 0, -1):
            yield Tile(
                rows,
                columns,
                vector,
                (slots, map_rows, *row_shape),
                out_shape,
                passes,
                group_channels,
                cells,
                weights,
                shared_memory(
                    cells.nbytes,
                    weights.nbytes if weights else 0,
                    slots * map_rows * row_bytes,
                    math.prod(out_shape) * itemsize,
                ),
            )


def _weights_apart(cells: CellTile, normalizer: str | None) -> CellTile | None:
    """Where normalised weights lie, if not in place.

    In place they need the room of the logits, and a thread for each cell of a block: of two that
    normalise the same cell, one could read what the other has overwritten.
    """
    if normalizer is None:
        return None
    columns, rows = cell_block(cells.columns, cells.padded_rows)
    in_place = cells.dtype == jnp.float32 and columns * rows == THREADS
    return None if in_place else cells.normalized()


@functools.cache
def weight_gradient_tile(problem: Problem) -> WeightTile:
    """The tile for the weight gradient; raises :class:`TooLargeError` if there is none."""
    geometry = problem.geometry
    halo = sum(geometry.halo)
    row_phases, column_phases = _phases_of_a_block(geometry)
    entries = row_phases * column_phases * geometry.weight_channels
    group_channels = aligned(problem.group_channels, problem.dtype)
    for channels in _WEIGHT_GRADIENT_CHANNELS:
        for rows, columns in _WEIGHT_GRADIENT_TILES:
            cells = CellTile(rows, columns, entries, problem.cells_dtype)
            parts = geometry.up**2 // (row_phases * column_phases)
            gradient = (*problem.cells, parts * cells.boxes * cells.box)
            one_piece = is_one_piece((rows, columns, cells.box), gradient)
            if one_piece or (channels > 8 and channels >= 2 * group_channels):
                continue
            tile = WeightTile(
                rows, columns, channels, row_phases, column_phases, group_channels, cells, 0
            )
            x = geometry.down * tile.source_rows(geometry, problem.dtype)
            x *= geometry.down * (columns + halo)
            y = row_phases * column_phases * rows * columns
            place = tile.pitch(problem.dtype) * WORD
            nbytes = shared_memory(cells.nbytes, x * place, y * place)
            two_fit = 2 * (nbytes + _RESERVED) <= _MULTIPROCESSOR_MEMORY
            if two_fit or (channels == 8 and nbytes <= SHARED_MEMORY):
                return dataclasses.replace(tile, nbytes=nbytes)
    raise TooLargeError


def _phases_of_a_block(geometry: Geometry) -> tuple[int, int]:
    """As many output phases as a thread has registers for: all, or one row, or part of it."""
    up, taps = geometry.up, geometry.taps
    if up * up * taps <= MAX_WEIGHT_SUMS:
        return up, up
    columns = [n for n in range(1, up + 1) if up % n == 0 and n * taps <= MAX_WEIGHT_SUMS]
    return 1, max(columns, default=1)
