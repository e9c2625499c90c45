"""Copies of the weights or logits of a tile of cells into shared memory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu.arrays import (
    aligned_cells,
    pad_columns_of_cells,
    pad_entries_of_cells,
    round_up,
    split_parts,
)
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.buffers import CellTile
from carafe_kernels.mosaic_gpu.settings import Settings


@dataclasses.dataclass(frozen=True)
class CopiedCells:
    """Copies of the weights or logits of a tile of cells into shared memory.

    Args:
        cells: buffer of a block.
        up: number of output phases of a cell along an axis.
        before: numbers of rows and of columns of cells that are copied before the tile.
        settings: settings of the kernels.
    """

    cells: CellTile
    up: int
    before: tuple[int, int]
    settings: Settings

    @property
    def _padding(self) -> tuple[int, int]:
        """Rows and columns of zeros before the array, so that no copy starts before it."""
        if not self.settings.pads_maps:
            return 0, 0
        rows, columns = self.before
        return rows, columns + self.cells.lead

    @property
    def buffer(self) -> Any:
        """The buffer in shared memory that the copies fill."""
        return plgpu.SMEM(self.cells.shape, self.cells.dtype)

    @property
    def barrier(self) -> Any:
        """The barrier that the copies arrive at."""
        return plgpu.Barrier(num_arrivals=self.cells.parts * self.cells.boxes)

    def operand(self, cells: jax.Array) -> jax.Array:
        """Reshapes ``[b, q, p, r, n]`` for the kernel, to ``[b, q, p, r * n]``.

        Rows are padded to a multiple of 16 bytes. The interpreter does not support reshaped
        references, and gets ``[b, q, p, kernels, taps]``; it can copy any number of elements.
        """
        copied = self.cells
        if cells.shape[4] > copied.kernels * copied.taps:
            cells = split_parts(cells, self.up)
        entries = copied.padded_kernels * copied.taps
        cells = pad_entries_of_cells(cells, entries)
        if any(self._padding):
            rows, columns = self._padding
            cells = jnp.pad(cells, ((0, 0), (rows, 0), (0, 0), (columns, 0), (0, 0)))
        columns = round_up(cells.shape[3], aligned_cells(entries, copied.dtype))
        cells = pad_columns_of_cells(cells, columns)
        batch, rows, parts, _, _ = cells.shape
        if self.settings.interpret:
            return cells.reshape(batch, rows, parts, columns * copied.padded_kernels, copied.taps)
        return cells.reshape(batch, rows, parts, columns * entries)

    def fetch(self, cells: Ref, buffer, barrier, b, row, column, part: jax.Array | int = 0):
        """Starts to copy the kernels of the tile whose first cell is at ``row`` and ``column``.

        Args:
            cells: array in device memory, from :meth:`operand`.
            buffer: buffer in shared memory.
            barrier: barrier that the copies arrive at.
            b: index of the map.
            row: row of the first cell, without the halo.
            column: column of the first cell, without the halo.
            part: index of the part to copy, in units of the parts that the buffer holds.
        """
        copied, padding = self.cells, self._padding
        first_row = row - self.before[0] + padding[0]
        first_column = column - self.before[1] - copied.lead + padding[1]
        for index in range(copied.parts * copied.boxes):
            own_part, box = divmod(index, copied.boxes)
            rows = pl.ds(first_row, copied.padded_rows)
            kernel = first_column * copied.padded_kernels + box * copied.box
            if self.settings.interpret:
                kernels, target = pl.ds(kernel, copied.box), buffer.at[index]
            else:
                box_entries = copied.box * copied.taps
                kernels = pl.ds(kernel * copied.taps, box_entries)
                target = buffer.at[index].reshape(copied.padded_rows, box_entries)
            plgpu.copy_gmem_to_smem(
                cells.at[b, rows, part * copied.parts + own_part, kernels],
                target,
                barrier,
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )
