"""Tiles of the weight gradient on the tensor cores.

A block computes :mod:`squares <carafe_kernels.mosaic_gpu.squares>` of targets. The products of all
targets of a square with all pixels of its patch are sums over channels, so they are a product of
matrices. The gradients of the weights are some of these products.
"""

import dataclasses
import functools
import math

from carafe_kernels.mosaic_gpu.buffers import (
    TooLargeError,
    first_fitting,
    matrix_pitch,
    shared_memory,
)
from carafe_kernels.mosaic_gpu.cell_runs import RunTile, run_tile
from carafe_kernels.mosaic_gpu.problem import WORD, Problem
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS
from carafe_kernels.mosaic_gpu.squares import CELLS, SIDE, SQUARES, squares_reason
from carafe_kernels.mosaic_gpu.tensor_cores import K_STEP, UP

_CHANNELS = tuple(range(64, 0, -K_STEP))  # numbers of channels per step
# Unused products at the start of a row: the columns from which products are read begin at -CELLS.
FIRST_PRODUCT = CELLS
_STEP_COST = 16  # cost of the waits of a step, as a number of channels


@dataclasses.dataclass(frozen=True)
class WeightProductTile:
    """Tile of the weight gradient on the tensor cores.

    Args:
        cells: buffer for the gradients.
        channels: number of channels per step, a multiple of :data:`K_STEP`.
        slots: number of buffers for the maps.
    """

    cells: RunTile
    channels: int
    slots: int

    @property
    def group_channels(self) -> int:
        """Number of channels of a group after padding."""
        return self.cells.problem.padded_group_channels(self.channels)

    @property
    def steps(self) -> int:
        """Number of steps over the channels of a group."""
        return -(-self.group_channels // self.channels)

    @property
    def pitch(self) -> int:
        """Distance in channels between neighbouring pixels of a map in shared memory."""
        return matrix_pitch(self.channels, self.cells.problem.dtype)

    @property
    def patch_halves(self) -> int:
        """Number of halves of a patch, of :data:`CELLS` rows each, that taps read."""
        return -(-(CELLS + 2 * self.cells.problem.geometry.radius) // CELLS)

    @property
    def source_shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffers for ``x``, ``[slots, rows, columns, channels]``."""
        rows = CELLS * (SQUARES - 1 + self.patch_halves)
        return self.slots, rows, SIDE, self.pitch

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffers for ``y``, ``[slots, rows, columns, channels]``."""
        return self.slots, SQUARES * SIDE, SIDE, self.pitch

    @property
    def product_pitch(self) -> int:
        """Distance between the rows of the products of a square; the first few are not used."""
        return FIRST_PRODUCT + self.patch_halves * CELLS * SIDE

    @property
    def product_rows(self) -> tuple[int, int, int]:
        """Shape in which the products of a square are read, ``[CELLS, SIDE, 2 * pitch + 1]``.

        The products are stored in rows of ``pitch`` (:attr:`product_pitch`), one for each target.
        Target ``(2 * i + u, 2 * j + v)`` reads pixel ``(i + n, j + m)`` of the patch with tap
        ``(n, m)``, so this product is at::

            (16 * i + 8 * u + 2 * j + v) * pitch + FIRST_PRODUCT + 8 * (i + n) + j + m

        In rows of ``length = 2 * pitch + 1`` that is::

            (8 * i + 4 * u + j) * length + v * pitch + FIRST_PRODUCT + 8 * n + m - 4 * u

        So the products with one tap of one phase are in one column, for all cells of a square.
        """
        return CELLS, SIDE, UP * self.product_pitch + 1

    @property
    def product_shape(self) -> tuple[int, int]:
        """Shape of the buffer for products, ``[squares, products]``."""
        return SQUARES, math.prod(self.product_rows)

    @property
    def nbytes(self) -> int:
        """Shared memory of a block in bytes."""
        itemsize = self.cells.problem.dtype.itemsize
        return shared_memory(
            math.prod(self.source_shape) * itemsize,
            math.prod(self.output_shape) * itemsize,
            math.prod(self.product_shape) * WORD,
            self.cells.nbytes,
        )


def weight_products_reason(problem: Problem) -> str | None:
    """Why the tensor cores cannot compute the weight gradient; ``None`` if they can."""
    if reason := squares_reason(problem):
        return reason
    cells = _cells(problem)
    if not cells.layout.fits(CELLS):
        return f"copies cannot move the kernels of {CELLS} columns of {problem.geometry}"
    if cells.is_one_piece:
        return (
            f"a map with {problem.cells[1]} columns of cells is too narrow for {problem.geometry}"
        )
    try:
        weight_product_tile(problem)
    except TooLargeError:
        return f"{problem.geometry} needs more shared memory than a block has"
    return None


@functools.cache
def weight_product_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> WeightProductTile:
    """The tile for a problem; raises :class:`TooLargeError` if no tile fits."""
    cells = _cells(problem)

    def cost(tile: WeightProductTile) -> tuple[bool, int]:
        padded = problem.pads_groups(tile.group_channels)
        return padded, tile.steps * (tile.channels + _STEP_COST)

    tiles = [WeightProductTile(cells, channels, max_slots) for channels in _CHANNELS]
    tiles.sort(key=cost)
    return first_fitting(tiles)


def _cells(problem: Problem) -> RunTile:
    return run_tile(problem, SQUARES * CELLS, CELLS, UP, UP)
