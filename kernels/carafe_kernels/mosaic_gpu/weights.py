"""The weights of a block's cells in shared memory, normalised there if logits came in."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import (
    aligned_cells,
    pad_columns_of_cells,
    round_up,
    split_parts,
)
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.buffers import CellTile
from carafe_kernels.mosaic_gpu.layouts import Layout, kernel_block, kernel_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.tiling import Tile
from carafe_kernels.normalizers import tap_weights


@dataclasses.dataclass(frozen=True)
class Weights:
    """How the forward pass and the input gradient bring in the weights of a tile.

    Args:
        problem: what is computed.
        tile: of a block.
        layout: of weights as they are loaded, ``[rows]``.
        before: cells of the halo before the tile, for which zeros are put before the map where
            no copy may start there.
        settings: how to compile and run.
    """

    problem: Problem
    tile: Tile
    layout: Layout
    before: int
    settings: Settings

    @property
    def _weights(self) -> CellTile:
        return self.tile.weights or self.tile.cells

    @property
    def buffers(self) -> tuple[Any, ...]:
        """Shared memory for what is copied and, if not in the same place, normalised weights."""
        tiles = (self.tile.cells, self.tile.weights)
        return tuple(plgpu.SMEM(tile.shape, tile.dtype) for tile in tiles if tile)

    @property
    def barrier(self) -> Any:
        """Of the copies."""
        return plgpu.Barrier(num_arrivals=self.tile.cells.parts * self.tile.cells.boxes)

    def operand(self, cells: jax.Array) -> jax.Array:
        """``[b, q, p, r, n]`` as the kernel takes it: ``[b, q, p, r * n]``.

        Rows are padded to whole multiples of 16 bytes, and to more than a box has: a box that is
        a whole row would be copied as one piece, with no zeros around it. The interpreter copies
        any number of elements, but has no reshaped references, and gets ``[b, q, p, kernels,
        taps]``.
        """
        copied = self.tile.cells
        if cells.shape[4] > copied.kernels * copied.taps:
            cells = split_parts(cells, self.problem.geometry.up)
        entries = cells.shape[4]
        if self.settings.pads_maps and self.before:
            cells = jnp.pad(cells, ((0, 0), (self.before, 0), (0, 0), (self.before, 0), (0, 0)))
        least = max(cells.shape[3], copied.box // copied.kernels + 1)
        columns = round_up(least, aligned_cells(entries, copied.dtype))
        cells = pad_columns_of_cells(cells, columns)
        batch, rows, parts, _, _ = cells.shape
        if self.settings.interpret:
            return cells.reshape(batch, rows, parts, columns * copied.kernels, copied.taps)
        return cells.reshape(batch, rows, parts, columns * entries)

    def fetch(self, cells: Ref, buffers, barrier, b, row, column, part: jax.Array | int = 0):
        """Starts to copy a part of the kernels of the cells from ``row`` and ``column`` on."""
        copied = self.tile.cells
        for index in range(copied.parts * copied.boxes):
            own_part, box = divmod(index, copied.boxes)
            rows = pl.ds(row, copied.padded_rows)
            kernel = column * copied.kernels + box * copied.box
            if self.settings.interpret:
                kernels, target = pl.ds(kernel, copied.box), buffers[0].at[index]
            else:
                box_entries = copied.box * copied.taps
                kernels = pl.ds(kernel * copied.taps, box_entries)
                target = buffers[0].at[index].reshape(copied.padded_rows, box_entries)
            plgpu.copy_gmem_to_smem(
                cells.at[b, rows, part * copied.parts + own_part, kernels],
                target,
                barrier,
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )

    def wait(self, buffers, barrier) -> None:
        """Waits for the copies, and normalises."""
        plgpu.barrier_wait(barrier)
        normalizer = self.problem.normalizer
        if normalizer is None:
            return
        buffer, target = buffers[0], buffers[-1]
        boxes, rows, kernels, taps = self.tile.cells.shape
        size = kernel_block(boxes, rows, kernels)
        layout = kernel_layout(*size)
        blocks_of_rows = rows // size[1]

        # A kernel a thread at a time: the compiler would load those of several, and spill.
        def normalize(index, _):
            box = blocks.div(index, blocks_of_rows) * size[0]
            row = blocks.rem(index, blocks_of_rows) * size[1]
            place = pl.ds(box, size[0]), pl.ds(row, size[1]), slice(None)
            logits = [blocks.load(buffer.at[*place, tap], layout) for tap in range(taps)]
            for tap, value in enumerate(tap_weights(logits, normalizer)):
                blocks.store(target.at[*place, tap], value)

        blocks.loop(boxes // size[0] * blocks_of_rows, normalize)
        plgpu.commit_smem()

    def load(self, buffers, row: int, column: int, index: tuple[Any, ...]) -> jax.Array:
        """``[rows]`` in float32 from ``row`` of the tile on: index ``(u, v, group, tap)``."""
        u, v, group, tap = index
        geometry, weights = self.problem.geometry, self._weights
        part = u if weights.kernels < geometry.up**2 * geometry.groups else 0
        kernel = ((u - part) * geometry.up + v) * geometry.groups + group
        box, place = blocks.split(column * weights.kernels + kernel, weights.box)
        rows = pl.ds(row, self.tile.rows)
        ref = buffers[-1].at[part * weights.boxes + box, rows, place, tap]
        return blocks.load(ref, self.layout)
