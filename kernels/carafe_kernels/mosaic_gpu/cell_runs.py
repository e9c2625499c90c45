"""The layout of logits, and of gradients of weights or logits, in which whole cells are copied."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import (
    MAX_BOX,
    aligned_cells,
    pad_columns_of_cells,
    round_up,
    split_parts,
)
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.buffers import is_one_piece
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings


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
        runs: layout of the runs in device memory.
        rows: number of rows of cells.
        columns: number of columns of cells.
        row_phases: number of rows of output phases whose kernels the tile holds.
        column_phases: number of columns of output phases whose kernels the tile holds.
    """

    problem: Problem
    runs: CellRuns
    rows: int
    columns: int
    row_phases: int
    column_phases: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffer, ``[runs, rows, columns, entries]``."""
        kernels = self.row_phases * self.column_phases * self.problem.geometry.groups
        return kernels // self.runs.kernels_per_run, self.rows, self.columns, self.runs.entries

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.runs.dtype.itemsize

    @property
    def is_one_piece(self) -> bool:
        """Whether a store would not be clipped, see :func:`buffers.is_one_piece`."""
        units, unit = self.columns // self.runs.aligned, self.runs.aligned * self.runs.entries
        padded_units = self.runs.padded_columns // self.runs.aligned
        array = self.problem.cells[0], self.runs.runs, padded_units, unit
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


@dataclasses.dataclass(frozen=True)
class CopiedRuns:
    """Copies of the runs of a tile of cells, into and out of shared memory.

    Args:
        tile: buffer of a block.
        settings: settings of the kernels.
    """

    tile: RunTile
    settings: Settings

    @property
    def copies(self) -> int:
        """Number of copies that move a tile."""
        return self.tile.shape[0]

    @property
    def buffer(self) -> Any:
        """The buffer in shared memory."""
        return plgpu.SMEM(self.tile.shape, self.tile.runs.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array in device memory, whose columns are units of cells."""
        problem, runs = self.tile.problem, self.tile.runs
        aligned = 1 if self.settings.interpret else runs.aligned
        units = runs.padded_columns // aligned
        return problem.batch, problem.cells[0], runs.runs, units, aligned * runs.entries

    def operand(self, cells: jax.Array) -> jax.Array:
        """Reshapes ``[b, q, 1, r, n]`` to :attr:`shape`."""
        runs = self.tile.runs
        if runs.runs > 1:
            cells = split_parts(cells, runs.runs)
        return pad_columns_of_cells(cells, runs.padded_columns).reshape(self.shape)

    def result(self, array: jax.Array) -> jax.Array:
        """Reshapes :attr:`shape` to ``[b, q, runs, r, n]``."""
        problem, runs = self.tile.problem, self.tile.runs
        split = *self.shape[:3], runs.padded_columns, runs.entries
        return array.reshape(split)[:, :, :, : problem.cells[1]]

    def slices(
        self, array: Ref, buffer: Ref, b, row, column, u: jax.Array | int = 0,
        v: jax.Array | int = 0,
    ) -> Iterator[tuple[Ref, Ref]]:  # fmt: skip
        """For each run of a tile, its slice of the array and its slice of the buffer.

        Args:
            array: array in device memory, of :attr:`shape`.
            buffer: buffer in shared memory.
            b: index of the map.
            row: row of the first cell.
            column: column of the first cell.
            u: first row of output phases.
            v: first column of output phases.
        """
        tile, runs, geometry = self.tile, self.tile.runs, self.tile.problem.geometry
        up, groups = geometry.up, geometry.groups
        first = blocks.split((u * up + v) * groups, runs.kernels_per_run)[0]
        for index in range(self.copies):
            own_rows, own_columns = divmod(
                index * runs.kernels_per_run, tile.column_phases * groups
            )
            run = first + (own_rows * up * groups + own_columns) // runs.kernels_per_run
            target = buffer.at[index]
            if self.settings.interpret:  # the interpreter copies any number of elements
                units = pl.ds(column, tile.columns)
            else:
                units = pl.ds(blocks.div(column, runs.aligned), tile.columns // runs.aligned)
                target = target.reshape(tile.rows, tile.columns // runs.aligned, -1)
            yield array.at[b, pl.ds(row, tile.rows), run, units], target

    def fetch(self, array: Ref, buffer: Ref, barrier: Ref, *position: Any) -> None:
        """Starts to copy a tile into shared memory; ``position`` as for :meth:`slices`."""
        for memory, target in self.slices(array, buffer, *position):
            plgpu.copy_gmem_to_smem(memory, target, barrier, oob_mode=plgpu.OOBFillMode.ZEROS)

    def store(self, array: Ref, buffer: Ref, *position: Any) -> None:
        """Starts to copy a tile into device memory; ``position`` as for :meth:`slices`."""
        for memory, source in self.slices(array, buffer, *position):
            plgpu.copy_smem_to_gmem(source, memory)
