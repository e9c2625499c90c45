"""Which part of a problem a block of the weight gradient computes.

A thread holds one cell and the sums of all taps of some of its output phases, and reads channel
after channel.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import (
    MAX_BOX,
    TMA_ALIGNMENT,
    aligned,
    aligned_cells,
    round_up,
)
from carafe_kernels.mosaic_gpu.buffers import (
    SHARED_MEMORY,
    TooLargeError,
    copied_rows,
    is_one_piece,
    shared_memory,
    two_blocks_fit,
)
from carafe_kernels.mosaic_gpu.problem import WORD, Problem

MAX_WEIGHT_SUMS = 110  # sums a thread keeps in registers beside what it loads
_TILES = ((8, 16), (16, 8))  # (rows, columns), a thread for each cell
_CHANNELS = (64, 32, 16, 8)


@dataclasses.dataclass(frozen=True)
class CellRuns:
    """Weights, logits or their gradients as the weight gradient copies them: in runs of kernels.

    A run is what lies together of a cell in memory: all its kernels, those of a row of output
    phases, or one. Arrays are ``[B, q, runs, r, n]``. TMA addresses multiples of 16 bytes, so that
    it sees ``aligned`` cells as one place, and as many columns of cells as fill whole places.

    Args:
        columns: of cells.
        kernels: of a cell.
        kernels_per_run: how many of them lie together.
        taps: of a kernel.
        dtype: of the entries.
    """

    columns: int
    kernels: int
    kernels_per_run: int
    taps: int
    dtype: np.dtype

    @property
    def runs(self) -> int:
        """Of a cell."""
        return self.kernels // self.kernels_per_run

    @property
    def entries(self) -> int:
        """Of a run."""
        return self.kernels_per_run * self.taps

    @property
    def aligned(self) -> int:
        """Cells of one place."""
        return aligned_cells(self.entries, self.dtype)

    @property
    def padded_columns(self) -> int:
        """Of whole places."""
        return round_up(self.columns, self.aligned)

    def fits(self, columns: int) -> bool:
        """Whether a copy can move the runs of ``columns`` cells of a row."""
        return columns % self.aligned == 0 and self.aligned * self.entries <= MAX_BOX


@dataclasses.dataclass(frozen=True)
class WeightTile:
    """Of the weight gradient.

    Args:
        problem: that is cut into tiles.
        rows: cells; ``rows * columns`` is the number of threads.
        columns: cells.
        channels: at a time.
        row_phases: rows of output phases of a block.
        column_phases: columns of output phases of a block.
        cells: the gradients in memory.
    """

    problem: Problem
    rows: int
    columns: int
    channels: int
    row_phases: int
    column_phases: int
    cells: CellRuns

    @property
    def group_channels(self) -> int:
        """Channels of a group after padding."""
        return aligned(self.problem.group_channels, self.problem.dtype)

    @property
    def kernels(self) -> int:
        """Of a cell in one block."""
        return self.row_phases * self.column_phases * self.problem.geometry.groups

    @property
    def pitch(self) -> int:
        """Words from one place of a map in shared memory to the next.

        An odd multiple of 16 bytes, so that threads which read 16 bytes at neighbouring places
        use different memory banks.
        """
        unit = TMA_ALIGNMENT // WORD
        words = self.channels * self.problem.dtype.itemsize // WORD
        return unit * (words // unit | 1)

    @property
    def source_shape(self) -> tuple[int, int, int, int, int]:
        """Buffer of the source map: ``[column phases, rows, row phases, columns, words]``."""
        geometry = self.problem.geometry
        down, columns = geometry.down, self.columns + sum(geometry.halo)
        row_bytes = down * columns * self.pitch * WORD
        rows = copied_rows(self.rows + sum(geometry.halo), row_bytes)
        return down, rows, down, columns, self.pitch

    @property
    def output_shape(self) -> tuple[int, int, int, int, int]:
        """Buffer of the map ``y``: ``[column phases, rows, row phases, columns, words]``."""
        return self.column_phases, self.rows, self.row_phases, self.columns, self.pitch

    @property
    def cell_shape(self) -> tuple[int, int, int, int]:
        """Buffer of the gradients of a block: ``[runs, rows, columns, entries]``."""
        runs = self.kernels // self.cells.kernels_per_run
        return runs, self.rows, self.columns, self.cells.entries

    @property
    def shares_memory(self) -> bool:
        """Whether the gradients take the place of the maps when those have been read.

        With several groups, the maps of the next group come in after the gradients of the last.
        """
        return self.problem.geometry.groups == 1

    @property
    def nbytes(self) -> int:
        """Shared memory."""
        maps = [WORD * math.prod(shape) for shape in (self.source_shape, self.output_shape)]
        cells = math.prod(self.cell_shape) * self.cells.dtype.itemsize
        if self.shares_memory:
            return max(shared_memory(*maps), shared_memory(cells))
        return shared_memory(*maps, cells)


@functools.cache
def weight_gradient_tile(problem: Problem) -> WeightTile:
    """The tile for the weight gradient; raises :class:`TooLargeError` if there is none."""
    tiles = [tile for tile in _tiles(problem) if tile.nbytes <= SHARED_MEMORY]
    for tile in tiles:
        if two_blocks_fit(tile.nbytes):
            return tile
    if not tiles:
        raise TooLargeError
    return tiles[-1]


def _tiles(problem: Problem) -> Iterator[WeightTile]:
    """Tiles that compute right, best first."""
    row_phases, column_phases = _phases_per_block(problem.geometry)
    for channels, (rows, columns) in itertools.product(_CHANNELS, _TILES):
        cells = _cell_runs(problem, row_phases, column_phases, columns)
        tile = WeightTile(problem, rows, columns, channels, row_phases, column_phases, cells)
        places = cells.padded_columns // cells.aligned
        box = rows, 1, columns // cells.aligned, cells.aligned * cells.entries
        array = problem.cells[0], cells.runs, places, cells.aligned * cells.entries
        if is_one_piece(box, array) or (channels > 8 and channels >= 2 * tile.group_channels):
            continue
        yield tile


def _phases_per_block(geometry: Geometry) -> tuple[int, int]:
    """As many output phases as a thread has registers for: all, or one row, or part of it."""
    up, taps = geometry.up, geometry.taps
    if up * up * taps <= MAX_WEIGHT_SUMS:
        return up, up
    columns = [n for n in range(1, up + 1) if up % n == 0 and n * taps <= MAX_WEIGHT_SUMS]
    return 1, max(columns, default=1)


def _cell_runs(problem: Problem, row_phases: int, column_phases: int, columns: int) -> CellRuns:
    """The longest runs that lie in memory as the caller has them, or else single kernels."""
    geometry = problem.geometry
    up, groups = geometry.up, geometry.groups
    runs = [1]
    if column_phases == up:
        runs.insert(0, up * groups)
    if row_phases == up and problem.parts == 1:
        runs.insert(0, up * up * groups)
    for kernels in runs:
        cells = CellRuns(
            problem.cells[1], up * up * groups, kernels, geometry.taps, problem.cells_dtype
        )
        if cells.fits(columns):
            break
    return cells
