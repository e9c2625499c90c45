"""Runs: the layout of logits, and of gradients of weights or logits, for copies of whole cells."""

import dataclasses
import math

import numpy as np

from carafe_kernels.mosaic_gpu.arrays import MAX_BOX, aligned_cells, round_up
from carafe_kernels.mosaic_gpu.buffers import is_one_piece
from carafe_kernels.mosaic_gpu.problem import Problem


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
class RunTile:
    """Buffer for the runs of a tile of cells.

    Args:
        problem: problem that the kernel computes.
        layout: layout of the runs in device memory.
        rows: number of rows of cells.
        columns: number of columns of cells.
        row_phases: number of rows of output phases whose kernels the tile holds.
        column_phases: number of columns of output phases whose kernels the tile holds.
    """

    problem: Problem
    layout: CellRuns
    rows: int
    columns: int
    row_phases: int
    column_phases: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffer, ``[runs, rows, columns, entries]``."""
        kernels = self.row_phases * self.column_phases * self.problem.geometry.groups
        return kernels // self.layout.kernels_per_run, self.rows, self.columns, self.layout.entries

    @property
    def kernel_axes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Axes of the kernels of a cell: those over runs, and those of a run."""
        axes = {
            "u": self.row_phases,
            "v": self.column_phases,
            "group": self.problem.geometry.groups,
        }
        over_runs: dict[str, int] = {}
        while math.prod(axes.values()) > self.layout.kernels_per_run:
            name = next(iter(axes))
            over_runs[name] = axes.pop(name)
        return over_runs, axes

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.layout.dtype.itemsize

    @property
    def is_one_piece(self) -> bool:
        """Whether a store of the tile is not clipped, see :func:`buffers.is_one_piece`."""
        units, unit = self.columns // self.layout.aligned, self.layout.aligned * self.layout.entries
        padded_units = self.layout.padded_columns // self.layout.aligned
        array = self.problem.cells[0], self.layout.runs, padded_units, unit
        return is_one_piece((self.rows, 1, units, unit), array)


def run_tile(
    problem: Problem, rows: int, columns: int, row_phases: int, column_phases: int
) -> RunTile:
    """A tile with the longest runs that are contiguous in the caller's arrays, or single kernels.

    Args:
        problem: problem that the kernel computes.
        rows: number of rows of cells.
        columns: number of columns of cells.
        row_phases: number of rows of output phases per block.
        column_phases: number of columns of output phases per block.
    """
    geometry = problem.geometry
    up, groups = geometry.up, geometry.groups
    choices = [1]
    if column_phases == up:
        choices.insert(0, up * groups)
    if row_phases == up and problem.parts == 1:
        choices.insert(0, up * up * groups)
    for kernels in choices:
        runs = CellRuns(
            problem.cells[1], up * up * groups, kernels, geometry.taps, problem.cells_dtype
        )
        if runs.fits(columns):
            break
    return RunTile(problem, runs, rows, columns, row_phases, column_phases)
