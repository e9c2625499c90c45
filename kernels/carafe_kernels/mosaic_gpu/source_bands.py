"""Bands of the input gradient: the weights with which targets read sources.

Row ``source`` of a band has the weights with which the targets of a strip read a source of a source
square, and zeros for targets that do not read it. See
:mod:`carafe_kernels.mosaic_gpu.input_band_tiling`.
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
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.input_band_tiling import (
    BEFORE,
    MARGIN,
    SIDE,
    SOURCES,
    SQUARES,
    STRIP_CELLS,
    STRIP_TARGETS,
    STRIPS,
    STRIPS_OF_SQUARE,
    InputBandTile,
)
from carafe_kernels.mosaic_gpu.layouts import Layout, matrix_layouts, warp_axes_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tensor_cores import UP, split_weights

# Axes of the part of the bands with one row of taps and one strip of each square. The cells of a
# strip have two axes, over boxes and in a box.
_AXES = ("square", "source", "u", "box", "cell", "v")
_WARP_AXES = (0, 2)  # each warp has one square and one row of phases


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
        """Shared memory for the bands of a row of cells, in the dtype of the maps."""
        return plgpu.SMEM(self.tile.band_shape, self.problem.dtype)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Sizes of :data:`_AXES`, one element for each thread."""
        per_box = self.tile.cells_per_box
        return SQUARES, SIDE, UP, STRIP_CELLS // per_box, per_box, UP

    @property
    def _layout(self) -> Layout:
        return warp_axes_layout(self._shape, _WARP_AXES)

    def clear(self, bands: Ref) -> None:
        """Fills the rows of a buffer, :attr:`InputBandTile.band_shape`, that have no taps."""
        zeros = plgpu.layout_cast(jnp.zeros(self._shape, jnp.float32), self._layout)
        size = self.problem.geometry.kernel_size
        for n in (*range(-MARGIN, 0), *range(size, size + MARGIN)):
            for strip in range(STRIPS_OF_SQUARE):
                for part in range(self.tile.band_shape[0]):
                    blocks.store(self._rows_of_taps(bands, part, n, strip), zeros)

    def store(self, weights: Ref, bands: Ref, group: jax.Array | int, cell_row: jax.Array) -> None:
        """Stores the bands of a row of cells.

        The threads must wait for each other before they load the bands.

        Args:
            weights: weights of the tile, in the shape of ``tile.weights`` or else ``tile.cells``.
            bands: buffer for the bands, :attr:`InputBandTile.band_shape`.
            group: channel group.
            cell_row: row of cells, from the first one that the block needs.
        """
        geometry, layout = self.problem.geometry, self._layout
        size = geometry.kernel_size
        source, box, cell = (
            plgpu.broadcasted_iota(jnp.int32, self._shape, _AXES.index(name), layout=layout)
            for name in ("source", "box", "cell")
        )
        columns = source - (box * self.tile.cells_per_box + cell)
        zeros = plgpu.layout_cast(jnp.zeros(self._shape, jnp.float32), layout)
        values = {}
        for n, strip in itertools.product(range(size), range(STRIPS_OF_SQUARE)):
            value = zeros
            for m in range(size):
                # With column m of its taps, a target of cell c reads source c + offset.
                offset = m - geometry.radius - BEFORE + strip * STRIP_CELLS
                if abs(offset) < SIDE:
                    tap = self._weights(weights, group, cell_row, strip, n * size + m)
                    value = lax.select(columns == offset, tap, value)
            values[n, strip] = value
        # All loads come before the first store, or the compiler would load after each store.
        for (n, strip), value in values.items():
            for part, weight in enumerate(split_weights(value, self.problem)):
                blocks.store(self._rows_of_taps(bands, part, n, strip), weight)

    def load(self, bands: Ref, cell_row: jax.Array) -> dict[tuple[int, int], list[jax.Array]]:
        """Loads the bands ``[SOURCES, STRIP_TARGETS]`` of a row of cells.

        Returns:
            For each square and each of its strips, one band for each part of the weights.
        """
        parts, _, rows, *columns = self.tile.band_shape
        matrix = bands.reshape(parts * SQUARES * rows, math.prod(columns))
        left, *_ = matrix_layouts(self.problem.dtype, row_warps=1)
        # The first row of a square is read with this row of taps, if that exists.
        n = 2 * self.problem.geometry.radius - cell_row
        found = {}
        for square, strip in itertools.product(range(SQUARES), range(STRIPS_OF_SQUARE)):
            refs = [
                matrix.at[
                    pl.ds((part * SQUARES + square) * rows + (n + MARGIN) * SIDE, SOURCES),
                    pl.ds(strip * STRIP_TARGETS, STRIP_TARGETS),
                ]
                for part in range(parts)
            ]
            found[square, strip] = [plgpu.load(ref, layout=left, optimized=False) for ref in refs]
        return found

    def _rows_of_taps(self, bands: Ref, part: int, n: int, strip: int) -> Ref:
        """The part of the bands for one row of taps and one strip of each square, ``_AXES``."""
        rows, columns = pl.ds((n + MARGIN) * SIDE, SIDE), pl.ds(strip * UP, UP)
        return bands.at[part, :, rows, columns, :, :, :]

    def _weights(
        self, weights: Ref, group: jax.Array | int, cell_row: jax.Array, strip: int, tap: int
    ) -> jax.Array:
        """The weights of the targets in one strip of each square, broadcast to :data:`_AXES`."""
        geometry = self.problem.geometry
        sizes = self.tile.cells.kernel_axes(UP, geometry.groups)
        boxes = {"strip": STRIPS, "box": STRIP_CELLS // sizes["inner column"]}
        axes: dict[str, int] = {}
        for name, size in sizes.items():
            axes |= boxes if name == "outer column" else {name: size}
        outer, inner = blocks.split(group, sizes["inner group"])
        index = {
            "outer group": outer,
            "inner group": inner,
            "row": cell_row,
            "strip": pl.ds(strip, SQUARES),
        }
        ref = weights.reshape(*axes.values(), geometry.taps)
        ref = ref.at[*(index.get(name, slice(None)) for name in axes), tap]
        kept = [name for name in axes if name == "strip" or name not in index]
        names = ("strip", "u", "box", "inner column", "v")
        layout = warp_axes_layout(self._shape, _WARP_AXES, without=(1,))
        value = blocks.load(ref.transpose(tuple(map(kept.index, names))), layout)
        value = lax.broadcast_in_dim(value, self._shape, (0, 2, 3, 4, 5))
        return plgpu.layout_cast(value, self._layout)
