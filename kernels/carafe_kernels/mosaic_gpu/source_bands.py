"""Bands of the input gradient: the weights with which targets read sources.

Row ``source`` of a band has the weights with which the targets of a strip read a source of a quad,
and zeros for targets that do not read it. See :mod:`carafe_kernels.mosaic_gpu.input_band_tiling`.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.band_tiling import UP
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.input_band_tiling import (
    HALO,
    MARGIN,
    QUAD,
    QUADS,
    STRIP_TARGETS,
    STRIPS,
    InputBandTile,
)
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts, warp_axes_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.weight_parts import split_weights

# Axes of the part of a band with one row of taps and one strip of each quad.
_AXES = ("quad", "source", "u", "box", "cell", "v")
_WARP_AXES = (0, 2)


@dataclasses.dataclass(frozen=True)
class SourceBands:
    """Bands of one row of cells after the other, in shared memory.

    Args:
        problem: problem that the kernel is compiled for.
        tile: tile of the block.
    """

    problem: Problem
    tile: InputBandTile

    @property
    def scratch(self) -> Any:
        """Shared memory for the bands of a row of cells."""
        return plgpu.SMEM(self.tile.band_shape, self.problem.dtype)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Sizes of :data:`_AXES`, one element for each thread."""
        return QUADS, QUAD, UP, QUAD // self.tile.cells_per_box, self.tile.cells_per_box, UP

    @property
    def _layout(self) -> Any:
        """The layout of :data:`_AXES`: each warp has one quad and one row of phases."""
        return warp_axes_layout(self._shape, _WARP_AXES)

    def clear(self, bands: Ref) -> None:
        """Fills the rows that have no taps with zeros."""
        zeros = plgpu.layout_cast(jnp.zeros(self._shape, jnp.float32), self._layout)
        size = self.problem.geometry.kernel_size
        for n in (*range(-MARGIN, 0), *range(size, size + MARGIN)):
            for strip, part in itertools.product(range(2), range(self.tile.band_shape[0])):
                blocks.store(self._rows_of_taps(bands, part, n, strip), zeros)

    def store(self, weights: Ref, bands: Ref, group: jax.Array | int, cell_row: jax.Array) -> None:
        """Stores the bands of a row of cells.

        Args:
            weights: buffer with the weights of the tile.
            bands: buffer for the bands.
            group: channel group.
            cell_row: row of cells, from the first one that the block needs.
        """
        geometry = self.problem.geometry
        size, layout = geometry.kernel_size, self._layout
        source, box, cell = (
            plgpu.broadcasted_iota(jnp.int32, self._shape, _AXES.index(name), layout=layout)
            for name in ("source", "box", "cell")
        )
        columns = source - (box * self.tile.cells_per_box + cell)
        values = {}
        for n, strip in itertools.product(range(size), range(2)):
            value = plgpu.layout_cast(jnp.zeros(self._shape, jnp.float32), layout)
            for m in range(size):
                # The target of a cell reads, with column m of its taps, this source minus the cell.
                offset = m - geometry.radius - HALO + strip * QUAD
                if abs(offset) < QUAD:
                    tap = self._weights(weights, group, cell_row, strip, n * size + m)
                    value = lax.select(columns == offset, tap, value)
            values[n, strip] = value
        # All loads come before the first store, or the compiler would load after each store.
        for (n, strip), value in values.items():
            for part, weight in enumerate(split_weights(value, self.problem)):
                blocks.store(self._rows_of_taps(bands, part, n, strip), weight)

    def load(self, bands: Ref, cell_row: jax.Array) -> dict[tuple[int, int], list[jax.Array]]:
        """Loads the bands ``[QUAD**2, STRIP_TARGETS]`` of a row of cells.

        Returns:
            For each quad and each of its two strips, one band for each 16-bit part of the weights.
        """
        parts, _, rows, *columns = self.tile.band_shape
        matrix = bands.reshape(parts * QUADS * rows, math.prod(columns))
        left, *_ = matrix_layouts(self.problem.dtype, row_warps=1)
        # The first source of a quad is read with this row of taps, if that exists.
        n = 2 * self.problem.geometry.radius - cell_row
        found = {}
        for quad, strip in itertools.product(range(QUADS), range(2)):
            refs = [
                matrix.at[
                    pl.ds((part * QUADS + quad) * rows + (n + MARGIN) * QUAD, QUAD * QUAD),
                    pl.ds(strip * STRIP_TARGETS, STRIP_TARGETS),
                ]
                for part in range(parts)
            ]
            found[quad, strip] = [plgpu.load(ref, layout=left, optimized=False) for ref in refs]
        return found

    def _rows_of_taps(self, bands: Ref, part: int, n: int, strip: int) -> Ref:
        """The part of all bands for one row of taps and one strip of each quad, ``_AXES``."""
        rows, columns = pl.ds((n + MARGIN) * QUAD, QUAD), pl.ds(strip * UP, UP)
        return bands.at[part, :, rows, columns, :, :, :]

    def _weights(self, weights: Ref, group, cell_row, strip: int, tap: int) -> jax.Array:
        """The weights of the targets in one strip of each quad, broadcast to :data:`_AXES`."""
        groups = self.problem.geometry.groups
        sizes = self.tile.cells.kernel_axes(UP, groups)
        boxes = {"strip": STRIPS, "box": QUAD // sizes["inner column"]}
        axes: dict[str, int] = {}
        for name, axis_size in sizes.items():
            axes |= boxes if name == "outer column" else {name: axis_size}
        outer, inner = blocks.split(group, sizes["inner group"])
        index = {
            "outer group": outer,
            "inner group": inner,
            "row": cell_row,
            "strip": pl.ds(strip, QUADS),
        }
        ref = weights.reshape(*axes.values(), self.problem.geometry.taps)
        ref = ref.at[*(index.get(name, slice(None)) for name in axes), tap]
        kept = [name for name in axes if name == "strip" or name not in index]
        names = ("strip", "u", "box", "inner column", "v")
        layout = warp_axes_layout(self._shape, _WARP_AXES, without=(1,))
        value = blocks.load(ref.transpose(tuple(map(kept.index, names))), layout)
        value = lax.broadcast_in_dim(value, self._shape, (0, 2, 3, 4, 5))
        return plgpu.layout_cast(value, self._layout)
