"""Tiles of the weight gradient.

A thread computes one cell. It holds the sums of all taps of some output phases of the cell, and
reads one channel after the other.
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

MAX_WEIGHT_SUMS = 110  # sums that a thread can hold in registers, beside the values that it loads
_TILES = ((8, 16), (16, 8))  # (rows, columns), with one thread for each cell
_CHANNELS = (64, 32, 16, 8)


@dataclasses.dataclass(frozen=True)
class CellRuns:
    """The layout ``[B, q, runs, r, n]`` of logits and of gradients of weights or logits.

    A run is a number of kernels of a cell that are contiguous in memory: all kernels of the cell,
    the kernels of a row of output phases, or one kernel. TMA addresses multiples of 16 bytes, so
    copies move units of ``aligned`` cells, and columns of cells are padded to whole units.

    Args:
        columns: number of columns of cells.
        kernels: number of kernels of a cell.
        kernels_per_run: number of kernels of a run.
        taps: number of taps of a kernel.
        dtype: dtype of the weights or logits.
    """

    columns: int
    kernels: int
    kernels_per_run: int
    taps: int
    dtype: np.dtype

    @property
    def runs(self) -> int:
        """Number of runs of a cell."""
        return self.kernels // self.kernels_per_run

    @property
    def entries(self) -> int:
        """Number of entries of a run."""
        return self.kernels_per_run * self.taps

    @property
    def aligned(self) -> int:
        """Number of cells of a unit."""
        return aligned_cells(self.entries, self.dtype)

    @property
    def padded_columns(self) -> int:
        """Number of columns of cells, padded to whole units."""
        return round_up(self.columns, self.aligned)

    def fits(self, columns: int) -> bool:
        """Whether a copy can move the runs of ``columns`` cells."""
        return columns % self.aligned == 0 and self.aligned * self.entries <= MAX_BOX


@dataclasses.dataclass(frozen=True)
class WeightTile:
    """Tile of the weight gradient.

    Args:
        problem: problem that the kernel computes.
        rows: number of rows of cells; ``rows * columns`` is the number of threads.
        columns: number of columns of cells.
        channels: number of channels per step.
        row_phases: number of rows of output phases that a block computes.
        column_phases: number of columns of output phases that a block computes.
        cells: layout of the gradients in memory.
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
        """Number of channels of a group after padding."""
        return aligned(self.problem.group_channels, self.problem.dtype)

    @property
    def kernels(self) -> int:
        """Number of kernels of a cell that a block computes."""
        return self.row_phases * self.column_phases * self.problem.geometry.groups

    @property
    def pitch(self) -> int:
        """Distance in words between neighbouring pixels of a map in shared memory.

        It is an odd multiple of 16 bytes, so that threads that read 16 bytes of neighbouring
        pixels use different memory banks.
        """
        unit = TMA_ALIGNMENT // WORD
        words = self.channels * self.problem.dtype.itemsize // WORD
        return unit * (words // unit | 1)

    @property
    def source_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the buffer for ``x``, ``[column phases, rows, row phases, columns, words]``."""
        geometry = self.problem.geometry
        down, columns = geometry.down, self.columns + sum(geometry.halo)
        row_bytes = down * columns * self.pitch * WORD
        rows = copied_rows(self.rows + sum(geometry.halo), row_bytes)
        return down, rows, down, columns, self.pitch

    @property
    def output_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the buffer for ``y``, ``[column phases, rows, row phases, columns, words]``."""
        return self.column_phases, self.rows, self.row_phases, self.columns, self.pitch

    @property
    def cell_shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffer for the gradients, ``[runs, rows, columns, entries]``."""
        runs = self.kernels // self.cells.kernels_per_run
        return runs, self.rows, self.columns, self.cells.entries

    @property
    def shares_memory(self) -> bool:
        """Whether the gradients overwrite the maps once these have been read.

        With several groups they cannot: the maps of the next group are copied while the gradients
        of the previous groups are still in shared memory.
        """
        return self.problem.geometry.groups == 1

    @property
    def nbytes(self) -> int:
        """Shared memory of a block in bytes."""
        maps = [WORD * math.prod(shape) for shape in (self.source_shape, self.output_shape)]
        cells = math.prod(self.cell_shape) * self.cells.dtype.itemsize
        if self.shares_memory:
            return max(shared_memory(*maps), shared_memory(cells))
        return shared_memory(*maps, cells)


@functools.cache
def weight_gradient_tile(problem: Problem) -> WeightTile:
    """The tile for the weight gradient; raises :class:`TooLargeError` if no tile fits."""
    tiles = [tile for tile in _tiles(problem) if tile.nbytes <= SHARED_MEMORY]
    for tile in tiles:
        if two_blocks_fit(tile.nbytes):
            return tile
    if not tiles:
        raise TooLargeError
    return tiles[-1]


def _tiles(problem: Problem) -> Iterator[WeightTile]:
    """Valid tiles, best first."""
    row_phases, column_phases = _phases_per_block(problem.geometry)
    for channels, (rows, columns) in itertools.product(_CHANNELS, _TILES):
        cells = _cell_runs(problem, row_phases, column_phases, columns)
        tile = WeightTile(problem, rows, columns, channels, row_phases, column_phases, cells)
        units = cells.padded_columns // cells.aligned
        box = rows, 1, columns // cells.aligned, cells.aligned * cells.entries
        array = problem.cells[0], cells.runs, units, cells.aligned * cells.entries
        if is_one_piece(box, array) or (channels > 8 and channels >= 2 * tile.group_channels):
            continue
        yield tile


def _phases_per_block(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of output phases per block: all, one row, or part of a row.

    A thread must have registers for the sums of all their taps.
    """
    up, taps = geometry.up, geometry.taps
    if up * up * taps <= MAX_WEIGHT_SUMS:
        return up, up
    columns = [n for n in range(1, up + 1) if up % n == 0 and n * taps <= MAX_WEIGHT_SUMS]
    return 1, max(columns, default=1)


def _cell_runs(problem: Problem, row_phases: int, column_phases: int, columns: int) -> CellRuns:
    """The longest runs that are contiguous in the caller's arrays, or else single kernels."""
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
