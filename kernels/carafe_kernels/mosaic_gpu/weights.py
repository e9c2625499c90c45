"""The weights of a block's cells in shared memory, normalised there if logits came in."""

import dataclasses
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.buffers import CellTile
from carafe_kernels.mosaic_gpu.layouts import Layout, kernel_block, kernel_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import Tile
from carafe_kernels.normalizers import tap_weights


@dataclasses.dataclass(frozen=True)
class Weights:
    """How the forward pass and the input gradient hold the weights of a tile.

    Args:
        problem: what is computed.
        tile: of a block.
        layout: of weights as they are loaded, ``[rows]``.
    """

    problem: Problem
    tile: Tile
    layout: Layout

    @property
    def _weights(self) -> CellTile:
        return self.tile.weights or self.tile.cells

    @property
    def buffers(self) -> tuple[Any, ...]:
        """Shared memory for what is copied and, if not in the same place, normalised weights."""
        tiles = (self.tile.cells, self.tile.weights)
        return tuple(plgpu.SMEM(tile.shape, tile.dtype) for tile in tiles if tile)

    @property
    def memory(self) -> tuple[tuple[Any, ...], ...]:
        """Of a block: the map that comes in, the one that goes out, and :attr:`buffers`."""
        dtype = self.problem.word_dtype
        maps = (plgpu.SMEM(shape, dtype) for shape in (self.tile.map_shape, self.tile.out_shape))
        return ((*maps, *self.buffers),)

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
