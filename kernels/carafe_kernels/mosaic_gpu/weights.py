"""The weights of a tile of cells in shared memory."""

import dataclasses
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.buffers import CellTile
from carafe_kernels.mosaic_gpu.layouts import Layout
from carafe_kernels.mosaic_gpu.normalized_cells import normalize_cells
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import Tile


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a tile of the forward pass or the input gradient.

    Args:
        problem: problem that the kernel computes.
        tile: tile of a block.
        layout: layout of the loaded weights, ``[rows]``.
    """

    problem: Problem
    tile: Tile
    layout: Layout

    @property
    def _weights(self) -> CellTile:
        return self.tile.weights or self.tile.cells

    @property
    def buffers(self) -> tuple[Any, ...]:
        """Buffers for the copied weights or logits and, unless in place, for normalised weights."""
        tiles = (self.tile.cells, self.tile.weights)
        return tuple(plgpu.SMEM(tile.shape, tile.dtype) for tile in tiles if tile)

    @property
    def memory(self) -> tuple[tuple[Any, ...], ...]:
        """Shared memory of a block: the input map, the output map, and :attr:`buffers`."""
        dtype = self.problem.word_dtype
        maps = (plgpu.SMEM(shape, dtype) for shape in (self.tile.map_shape, self.tile.out_shape))
        return ((*maps, *self.buffers),)

    def wait(self, buffers, barrier) -> None:
        """Waits for the copies, and normalises logits."""
        plgpu.barrier_wait(barrier)
        if self.problem.normalizer is not None:
            normalize_cells(self.tile.cells, buffers[0], buffers[-1], self.problem.normalizer)

    def load(self, buffers, row: int, column: int, index: tuple[Any, ...]) -> jax.Array:
        """Loads one weight of each row of cells, ``[rows]`` in float32.

        Args:
            buffers: the :attr:`buffers`.
            row: first row of cells in the buffer.
            column: column of cells, from the first one that the block needs.
            index: ``(u, v, group, tap)``, with the row phase and the column phase of the output.
        """
        u, v, group, tap = index
        geometry, weights = self.problem.geometry, self._weights
        part = u if weights.parts > 1 else 0
        kernel = ((u - part) * geometry.up + v) * geometry.groups + group
        first = (weights.lead + column) * weights.padded_kernels
        box, box_kernel = blocks.split(first + kernel, weights.box)
        rows = pl.ds(row, self.tile.rows)
        ref = buffers[-1].at[part * weights.boxes + box, rows, box_kernel, tap]
        return blocks.load(ref, self.layout)
