"""Kernels of a tile of cells as bands: matrices that a patch of the source map is multiplied with.

Row ``target`` of a band has the weights of that target at the pixels of the patch that its taps
read, and zeros elsewhere. Targets and pixels are in row-major order in their square and patch.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.band_tiling import (
    CELLS,
    K_STEP,
    SIDE,
    TARGETS,
    UP,
    BandTile,
    k_steps,
    parts_of_weights,
)
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts, row_major_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.normalizers import tap_weights

# The axes of arranged weights between those of groups and of taps; the columns of cells are two.
_ARRANGED = ("row", "u", "outer column", "inner column", "v")


@dataclasses.dataclass(frozen=True)
class Bands:
    """How a block makes its bands."""

    problem: Problem
    tile: BandTile

    def _copied_axes(self) -> dict[str, int]:
        """Sizes of the axes of a :class:`CellTile` in their order in memory, but for taps.

        A box may end among the columns or the groups, which are two axes each, therefore.
        """
        cells, boxes = self.tile.cells, self.tile.cells.boxes
        outer = {"u": UP} if cells.parts > 1 else {}
        inner = {}
        axes = {"column": CELLS, "u": UP, "v": UP, "group": self.problem.geometry.groups}
        for name, size in axes.items():
            if name in outer:
                continue
            of_boxes = min(size, boxes)
            boxes //= of_boxes
            if name in ("column", "group"):
                outer[f"outer {name}"] = of_boxes
                inner[f"inner {name}"] = size // of_boxes
            elif of_boxes > 1:
                outer[name] = size
            else:
                inner[name] = size
        return {**outer, "row": self.tile.rows, **inner}

    @property
    def scratch(self) -> Any:
        """Room for the arranged weights, in float32."""
        geometry, sizes = self.problem.geometry, self._copied_axes()
        shape = (geometry.groups, *(sizes[name] for name in _ARRANGED), geometry.taps)
        return plgpu.SMEM(shape, jnp.float32)

    def arrange(self, cells: Ref, weights: Ref) -> None:
        """Normalises what was copied to ``cells``, and brings it into the order of targets.

        A thread has one kernel; so all wait for each other before they read ``weights``.
        """
        geometry, normalizer = self.problem.geometry, self.problem.normalizer
        axes = self._copied_axes()
        copied = cells.reshape(*axes.values(), geometry.taps)
        of_a_group = [name for name in axes if name in _ARRANGED]
        order = [_ARRANGED.index(name) for name in of_a_group]
        layout = row_major_layout(tuple(axes[name] for name in of_a_group))

        def of_group(group, _):
            outer, inner = blocks.split(group, axes["inner group"])
            place = {"outer group": outer, "inner group": inner}
            kernels = [place.get(name, slice(None)) for name in axes]
            taps = range(geometry.taps)
            values = [blocks.load(copied.at[*kernels, tap], layout) for tap in taps]
            if normalizer is not None:
                values = tap_weights(values, normalizer)
            for tap, value in enumerate(values):
                target = weights.at[group, :, :, :, :, :, tap].transpose(order)
                blocks.store(target, value)

        blocks.loop(geometry.groups, of_group)
        plgpu.commit_smem()

    def of_square(self, weights: Ref, group: jax.Array | int, square: int) -> list[list[jax.Array]]:
        """The bands ``[TARGETS, K_STEP]`` of each step along the patch of a square.

        In a step there is one for each 16-bit part of the weights.
        """
        geometry, dtype = self.problem.geometry, self.problem.dtype
        size, reach = geometry.kernel_size, range(geometry.kernel_size)
        layout, of_targets, _, _ = matrix_layouts(dtype)
        shape = (TARGETS, K_STEP)
        of_tile = self.tile.squares * TARGETS
        kernels = weights.reshape(geometry.groups * of_tile, geometry.taps)
        first = blocks.traced_zero() + group * of_tile + square * TARGETS

        def weight(n, m):
            ref = kernels.at[pl.ds(first, TARGETS), n * size + m]
            value = blocks.load(ref, of_targets)
            return plgpu.layout_cast(lax.broadcast_in_dim(value, shape, (0,)), layout)

        target, pixel = (
            plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=layout) for axis in (0, 1)
        )
        row_of_cell = target // (SIDE * UP)
        column_of_cell = target % SIDE // UP
        row_of_pixel, column_of_pixel = pixel // SIDE, pixel % SIDE
        zeros = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), layout)
        # First along the rows of taps, where the columns of the patch tell them apart ...
        tap_rows = []
        for n in reach:
            row = zeros
            for m in reach:
                row = lax.select(column_of_pixel - column_of_cell == m, weight(n, m), row)
            tap_rows.append(row)
        bands = []
        for step in range(k_steps(geometry)):
            # ... then, of those that some target reads in these rows of the patch, one a row.
            first_row = step * K_STEP // SIDE
            band = zeros
            for n in reach:
                if first_row - CELLS < n <= first_row + K_STEP // SIDE - 1:
                    reads = row_of_pixel - row_of_cell == n - first_row
                    band = lax.select(reads, tap_rows[n], band)
            parts = [band.astype(dtype)]
            if parts_of_weights(self.problem) > 1:
                parts.append((band - parts[0].astype(jnp.float32)).astype(dtype))
            bands.append(parts)
        return bands
