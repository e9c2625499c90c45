"""Tiles of the input gradient on the tensor cores.

A *quad* is 4 x 4 sources (input pixels), which are 16 rows of a matrix. A *strip* is 4 cells in a
row, whose 16 targets (output pixels) are 16 rows of another matrix. In each row of cells that reads
a quad, all targets that read it lie in two neighbouring strips. A block computes several quads in a
row.
"""

import dataclasses
import functools
import math

from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, aligned_cells, round_up
from carafe_kernels.mosaic_gpu.band_tiling import UP, weights_reason
from carafe_kernels.mosaic_gpu.buffers import (
    SHARED_MEMORY,
    CellTile,
    TooLargeError,
    cell_tile,
    is_one_piece,
    shared_memory,
    two_blocks_fit,
)
from carafe_kernels.mosaic_gpu.normalized_cells import normalized_weights
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS
from carafe_kernels.mosaic_gpu.weight_parts import parts_of_weights

QUAD = 4  # sources of a side of a quad, and cells of a strip
QUADS = 2  # quads of a block
STRIPS = QUADS + 1
STRIP_TARGETS = QUAD * UP**2
# Columns of cells before a quad whose targets may read it, and with which its strips begin.
HALO = 2
# Rows of zeros before and after the rows of a band, in rows of sources: a quad reads a band from up
# to three rows before its first row to three rows behind its last one.
MARGIN = QUAD - 1
_CHANNELS = (128, 96, 64, 32)  # numbers of channels of a copy, multiples of 8 for each warp
_MAX_CHANNELS = 256  # channels of a block, whose sums a thread can hold in registers
_COPY_COST = 16  # cost of the waits of a copy, as a number of channels


@dataclasses.dataclass(frozen=True)
class InputBandTile:
    """Tile of the input gradient on the tensor cores.

    Args:
        problem: problem that the kernel computes.
        channels: number of channels per copy of the map.
        chunks: number of copies over the channels of a block.
        slots: number of buffers for the map.
        cells: buffer for the weights or logits.
        weights: buffer for normalised weights; ``None`` if logits are normalised in place, or if
            ``cells`` holds weights.
    """

    problem: Problem
    channels: int
    chunks: int
    slots: int
    cells: CellTile
    weights: CellTile | None

    @property
    def group_channels(self) -> int:
        """Number of channels of a group after padding.

        With several groups it is a multiple of a block's channels: a block that reaches beyond its
        group would overwrite results of the next group.
        """
        alone = self.problem.geometry.groups == 1
        itemsize = self.problem.dtype.itemsize
        multiple = TMA_ALIGNMENT // itemsize if alone else self.channels * self.chunks
        return round_up(self.problem.group_channels, multiple)

    @property
    def blocks_per_group(self) -> int:
        """Number of blocks for the channels of a group."""
        return -(-self.group_channels // (self.channels * self.chunks))

    @property
    def pitch(self) -> int:
        """Distance in channels between neighbouring targets in shared memory.

        It is an odd multiple of 16 bytes, so that neighbouring targets, which are rows of a matrix,
        lie in different memory banks.
        """
        return self.channels + TMA_ALIGNMENT // self.problem.dtype.itemsize

    @property
    def cell_rows(self) -> int:
        """Number of rows of cells that read a row of quads."""
        return QUAD + 2 * self.problem.geometry.radius

    @property
    def map_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the buffers for ``y``, ``[slots, strips, rows, columns, channels]``."""
        return self.slots, STRIPS, UP, QUAD * UP, self.pitch

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffer for ``x``, ``[quads, rows, columns, channels]``."""
        return QUADS, QUAD, QUAD, self.channels

    @property
    def cells_per_box(self) -> int:
        """Number of neighbouring cells of a strip in a box of ``cells``."""
        return self.cells.kernel_axes(UP, self.problem.geometry.groups)["inner column"]

    @property
    def band_shape(self) -> tuple[int, ...]:
        """Shape of the buffer for the bands of a row of cells.

        It is ``[parts, quads, rows, strips * u, boxes, cells of a box, v]``. A row is a source, for
        each row of taps, and a column is a target. The last of five pairs of a strip and ``u`` is
        not used: it makes the length of a row an odd multiple of 16 bytes.
        """
        rows = QUAD * (self.problem.geometry.kernel_size + 2 * MARGIN)
        per_box = self.cells_per_box
        parts = parts_of_weights(self.problem)
        return parts, QUADS, rows, 2 * UP + 1, QUAD // per_box, per_box, UP

    @property
    def nbytes(self) -> int:
        """Shared memory of a block in bytes."""
        shapes = self.map_shape, self.out_shape, self.band_shape
        return shared_memory(
            *(math.prod(shape) * self.problem.dtype.itemsize for shape in shapes),
            self.cells.nbytes,
            self.weights.nbytes if self.weights else 0,
        )


def input_bands_reason(problem: Problem) -> str | None:
    """Why the tensor cores cannot compute the input gradient; ``None`` if they can."""
    if reason := weights_reason(problem):
        return reason
    cells = _cells(problem)
    if HALO % aligned_cells(cells.kernels * cells.taps, cells.dtype):
        return (
            f"copies of {cells.dtype} kernels from {HALO} cells before a multiple of {QUAD} cannot "
            f"start at a multiple of {TMA_ALIGNMENT} bytes"
        )
    try:
        input_band_tile(problem)
    except TooLargeError:
        return f"{problem.geometry} needs more shared memory than a block has"
    return None


@functools.cache
def input_band_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> InputBandTile:
    """The tile for a problem; raises :class:`TooLargeError` if no tile fits."""
    geometry = problem.geometry
    cells = _cells(problem)
    weights = normalized_weights(cells, problem.normalizer)

    def tile(channels: int) -> InputBandTile:
        copies = -(-problem.group_channels // channels)
        parts = -(-copies // (_MAX_CHANNELS // channels))
        return InputBandTile(problem, channels, -(-copies // parts), max_slots, cells, weights)

    def cost(tile: InputBandTile) -> tuple[bool, int]:
        # XLA pads groups in a copy of the map.
        pads = geometry.groups > 1 and tile.group_channels > problem.group_channels
        copies = tile.blocks_per_group * tile.chunks
        return pads, copies * (tile.channels + _COPY_COST)

    def is_valid(tile: InputBandTile) -> bool:
        array = (*problem.size, geometry.groups * tile.group_channels)
        return not is_one_piece((QUAD, QUAD, tile.channels), array)

    tiles = [*filter(is_valid, sorted(map(tile, _CHANNELS), key=cost))]
    for fits in (two_blocks_fit, lambda nbytes: nbytes <= SHARED_MEMORY):
        for each in tiles:
            if fits(each.nbytes):
                return each
    raise TooLargeError


def _cells(problem: Problem) -> CellTile:
    geometry = problem.geometry
    return cell_tile(
        QUAD + 2 * geometry.radius,
        STRIPS * QUAD,
        problem.parts,
        UP**2 * geometry.groups // problem.parts,
        geometry.taps,
        problem.cells_dtype,
    )
