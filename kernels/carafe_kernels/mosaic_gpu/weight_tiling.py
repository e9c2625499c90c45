"""Tiles of the weight gradient.

A thread computes one cell. It holds the sums of all taps of some output phases of the cell, and
reads one channel after the other.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, aligned
from carafe_kernels.mosaic_gpu.buffers import (
    SHARED_MEMORY,
    TooLargeError,
    copied_rows,
    shared_memory,
    two_blocks_fit,
)
from carafe_kernels.mosaic_gpu.cell_runs import RunTile, run_tile
from carafe_kernels.mosaic_gpu.problem import WORD, Problem

MAX_WEIGHT_SUMS = 110  # sums that a thread can hold in registers, beside the values that it loads
_TILES = ((8, 16), (16, 8))  # (rows, columns), with one thread for each cell
_CHANNELS = (64, 32, 16, 8)


@dataclasses.dataclass(frozen=True)
class WeightTile:
    """Tile of the weight gradient.

    Args:
        cells: buffer for the gradients, with one cell for each thread.
        channels: number of channels per step.
    """

    cells: RunTile
    channels: int

    @property
    def problem(self) -> Problem:
        return self.cells.problem

    @property
    def group_channels(self) -> int:
        """Number of channels of a group after padding."""
        return aligned(self.problem.group_channels, self.problem.dtype)

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
        down, columns = geometry.down, self.cells.columns + sum(geometry.halo)
        row_bytes = down * columns * self.pitch * WORD
        rows = copied_rows(self.cells.rows + sum(geometry.halo), row_bytes)
        return down, rows, down, columns, self.pitch

    @property
    def output_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the buffer for ``y``, ``[column phases, rows, row phases, columns, words]``."""
        cells = self.cells
        return cells.column_phases, cells.rows, cells.row_phases, cells.columns, self.pitch

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
        if self.shares_memory:
            return max(shared_memory(*maps), shared_memory(self.cells.nbytes))
        return shared_memory(*maps, self.cells.nbytes)


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
        cells = run_tile(problem, rows, columns, row_phases, column_phases)
        tile = WeightTile(cells, channels)
        if cells.is_one_piece or (channels > 8 and channels >= 2 * tile.group_channels):
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
