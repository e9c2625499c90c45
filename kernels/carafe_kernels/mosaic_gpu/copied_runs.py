"""Copies of the runs of a tile of cells, into and out of shared memory."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import pad_columns_of_cells, split_parts
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.cell_runs import RunTile
from carafe_kernels.mosaic_gpu.settings import Settings


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
        return plgpu.SMEM(self.tile.shape, self.tile.layout.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array in device memory, whose columns are units of cells."""
        problem, layout = self.tile.problem, self.tile.layout
        aligned = 1 if self.settings.interpret else layout.aligned
        units = layout.padded_columns // aligned
        return problem.batch, problem.cells[0], layout.runs, units, aligned * layout.entries

    def operand(self, cells: jax.Array) -> jax.Array:
        """Reshapes ``[b, q, 1, r, n]`` to :attr:`shape`."""
        layout = self.tile.layout
        if layout.runs > 1:
            cells = split_parts(cells, layout.runs)
        return pad_columns_of_cells(cells, layout.padded_columns).reshape(self.shape)

    def result(self, array: jax.Array) -> jax.Array:
        """Reshapes :attr:`shape` to ``[b, q, runs, r, n]``."""
        problem, layout = self.tile.problem, self.tile.layout
        split = *self.shape[:3], layout.padded_columns, layout.entries
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
        tile, layout, geometry = self.tile, self.tile.layout, self.tile.problem.geometry
        up, groups = geometry.up, geometry.groups
        first = blocks.split((u * up + v) * groups, layout.kernels_per_run)[0]
        for index in range(self.copies):
            own_rows, own_columns = divmod(
                index * layout.kernels_per_run, tile.column_phases * groups
            )
            run = first + (own_rows * up * groups + own_columns) // layout.kernels_per_run
            target = buffer.at[index]
            if self.settings.interpret:  # the interpreter copies any number of elements
                units = pl.ds(column, tile.columns)
            else:
                units = pl.ds(blocks.div(column, layout.aligned), tile.columns // layout.aligned)
                target = target.reshape(tile.rows, tile.columns // layout.aligned, -1)
            yield array.at[b, pl.ds(row, tile.rows), run, units], target

    def fetch(self, array: Ref, buffer: Ref, barrier: Ref, *position: Any) -> None:
        """Starts to copy a tile into shared memory; ``position`` as for :meth:`slices`."""
        for memory, target in self.slices(array, buffer, *position):
            plgpu.copy_gmem_to_smem(memory, target, barrier, oob_mode=plgpu.OOBFillMode.ZEROS)

    def store(self, array: Ref, buffer: Ref, *position: Any) -> None:
        """Starts to copy a tile into device memory; ``position`` as for :meth:`slices`."""
        for memory, source in self.slices(array, buffer, *position):
            plgpu.copy_smem_to_gmem(source, memory)
