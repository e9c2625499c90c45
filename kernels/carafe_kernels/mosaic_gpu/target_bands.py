"""Reassembly kernels as band matrices, which are multiplied with patches of the source map.

Row ``target`` of a band has the weights of a target at the pixels of the patch that its taps read,
and zeros at all other pixels. Targets and pixels are in row-major order in their square and patch.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.forward_band_tiling import ForwardBandTile, k_steps
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts, row_major_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.squares import CELLS, SIDE, TARGETS
from carafe_kernels.mosaic_gpu.tensor_cores import K_STEP, UP, split_weights
from carafe_kernels.normalizers import tap_weights

# Axes of the arranged weights, between the axes of groups and of taps. The columns of cells have
# two axes.
_ARRANGED = ("row", "u", "outer column", "inner column", "v")


@dataclasses.dataclass(frozen=True)
class TargetBands:
    """Computes the bands of a block.

    Args:
        problem: problem that the kernel is compiled for.
        tile: tile of the block.
    """

    problem: Problem
    tile: ForwardBandTile

    @property
    def scratch(self) -> Any:
        """Shared memory for the arranged weights, in float32."""
        geometry, sizes = (
            self.problem.geometry,
            self.tile.cells.kernel_axes(UP, self.problem.geometry.groups),
        )
        shape = (geometry.groups, *(sizes[name] for name in _ARRANGED), geometry.taps)
        return plgpu.SMEM(shape, jnp.float32)

    def arrange(self, cells: Ref, weights: Ref) -> None:
        """Normalises the kernels in ``cells`` and stores them in ``weights``, in target order.

        Each thread stores one kernel, so the threads wait for each other at the end.
        """
        geometry, normalizer = self.problem.geometry, self.problem.normalizer
        axes = self.tile.cells.kernel_axes(UP, geometry.groups)
        copied = cells.reshape(*axes.values(), geometry.taps)
        group_axes = [name for name in axes if name in _ARRANGED]
        order = [_ARRANGED.index(name) for name in group_axes]
        layout = row_major_layout(tuple(axes[name] for name in group_axes))

        def arrange_group(group, _):
            outer, inner = blocks.split(group, axes["inner group"])
            group_index = {"outer group": outer, "inner group": inner}
            kernels = [group_index.get(name, slice(None)) for name in axes]
            taps = range(geometry.taps)
            values = [blocks.load(copied.at[*kernels, tap], layout) for tap in taps]
            if normalizer is not None:
                values = tap_weights(values, normalizer)
            for tap, value in enumerate(values):
                target = weights.at[group, :, :, :, :, :, tap].transpose(order)
                blocks.store(target, value)

        blocks.loop(geometry.groups, arrange_group)
        plgpu.commit_smem()

    def square_bands(
        self, weights: Ref, group: jax.Array | int, square: int
    ) -> list[list[jax.Array]]:
        """The bands ``[TARGETS, K_STEP]`` of a square.

        Returns:
            For each step along the patch, one band for each 16-bit part of the weights.
        """
        geometry, dtype = self.problem.geometry, self.problem.dtype
        size, reach = geometry.kernel_size, range(geometry.kernel_size)
        layout, row_layout, _, _ = matrix_layouts(dtype)
        shape = (TARGETS, K_STEP)
        tile_targets = self.tile.squares * TARGETS
        kernels = weights.reshape(geometry.groups * tile_targets, geometry.taps)
        first = blocks.traced_zero() + group * tile_targets + square * TARGETS

        def weight(n, m):
            ref = kernels.at[pl.ds(first, TARGETS), n * size + m]
            value = blocks.load(ref, row_layout)
            return plgpu.layout_cast(lax.broadcast_in_dim(value, shape, (0,)), layout)

        target, pixel = (
            plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=layout) for axis in (0, 1)
        )
        cell_row = target // (SIDE * UP)
        cell_column = target % SIDE // UP
        pixel_row, pixel_column = pixel // SIDE, pixel % SIDE
        zeros = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)
        # First choose among the taps of each row, by the column of the pixel.
        tap_rows = []
        for n in reach:
            row = zeros
            for m in reach:
                row = lax.select(pixel_column - cell_column == m, weight(n, m), row)
            tap_rows.append(row)
        bands = []
        for step in range(k_steps(geometry)):
            # Then choose among the rows of taps, by the row of the pixel. Only rows of taps that
            # some target reads in these rows of the patch are considered.
            first_row = step * K_STEP // SIDE
            band = zeros
            for n in reach:
                if first_row - CELLS < n <= first_row + K_STEP // SIDE - 1:
                    reads = pixel_row - cell_row == n - first_row
                    band = lax.select(reads, tap_rows[n], band)
            bands.append(split_weights(band, self.problem))
        return bands
