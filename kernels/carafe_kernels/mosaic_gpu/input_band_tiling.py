"""Tiles of the input gradient on the tensor cores.

A block computes several *source squares* side by side, of 4 x 4 sources (input pixels) each. The
sources of a square are 16 rows of a matrix. A *strip* is 4 cells in a row, whose 16 targets (output
pixels) are 16 rows of another matrix. In each row of cells that reads a source square, all targets
that read it lie in two neighbouring strips.
"""

import dataclasses
import functools
import math

from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, aligned_cells
from carafe_kernels.mosaic_gpu.buffers import (
    CellTile,
    TooLargeError,
    cell_tile,
    first_fitting,
    is_one_piece,
    matrix_pitch,
    shared_memory,
)
from carafe_kernels.mosaic_gpu.normalized_cells import normalized_weights
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS
from carafe_kernels.mosaic_gpu.tensor_cores import (
    UP,
    maps_reason,
    parts_of_weights,
    weights_reason,
)

SIDE = 4  # sources of a side of a source square
SOURCES = SIDE**2
SQUARES = 2  # source squares of a block
STRIP_CELLS = SIDE
STRIP_TARGETS = STRIP_CELLS * UP**2
STRIPS_OF_SQUARE = 2
STRIPS = SQUARES + STRIPS_OF_SQUARE - 1  # neighbouring squares share a strip
# The first strip of a source square begins this number of cells before the square. So two strips
# hold the readers of all kernels with at most this radius.
BEFORE = 2
# Rows of taps of a source that do not exist, before and after those that do: a row of cells is
# multiplied with all rows of a source square, and may be read by one of them only.
MARGIN = SIDE - 1
_CHANNELS = (128, 96, 64, 32)  # numbers of channels of a copy, multiples of 8 for each warp
_MAX_CHANNELS = 256  # channels of a block, whose sums fit into the registers of a thread
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
    def block_channels(self) -> int:
        """Number of channels of a block."""
        return self.chunks * self.channels

    @property
    def group_channels(self) -> int:
        """Number of channels of a group after padding."""
        return self.problem.padded_group_channels(self.block_channels)

    @property
    def blocks_per_group(self) -> int:
        """Number of blocks for the channels of a group."""
        return -(-self.group_channels // self.block_channels)

    @property
    def pitch(self) -> int:
        """Distance in channels between neighbouring pixels of a map in shared memory."""
        return matrix_pitch(self.channels, self.problem.dtype)

    @property
    def before(self) -> tuple[int, int]:
        """Numbers of rows and of columns of cells that are copied before the sources of a block."""
        return self.problem.geometry.radius, BEFORE

    @property
    def cell_rows(self) -> int:
        """Number of rows of cells that read the sources of a block."""
        return SIDE + 2 * self.problem.geometry.radius

    @property
    def map_shape(self) -> tuple[int, int, int, int, int]:
        """Shape of the buffers for ``y``, ``[slots, strips, rows, columns, channels]``."""
        return self.slots, STRIPS, UP, STRIP_CELLS * UP, self.pitch

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffer for ``x``, ``[squares, rows, columns, channels]``."""
        return SQUARES, SIDE, SIDE, self.channels

    @property
    def cells_per_box(self) -> int:
        """Number of neighbouring cells of a strip in a box of ``cells``."""
        return self.cells.kernel_axes(UP, self.problem.geometry.groups)["inner column"]

    @property
    def band_shape(self) -> tuple[int, ...]:
        """Shape of the buffer for the bands of a row of cells.

        It is ``[parts of a weight, squares, rows, strips * u, boxes, cells of a box, v]``. There
        are :data:`SIDE` rows for each row of taps, one for each source in a row of a square. A
        column is a target. The last of five pairs of a strip and ``u`` is not used: it makes the
        length of a row an odd multiple of 16 bytes.
        """
        rows = SIDE * (self.problem.geometry.kernel_size + 2 * MARGIN)
        per_box = self.cells_per_box
        columns = STRIPS_OF_SQUARE * UP + 1, STRIP_CELLS // per_box, per_box, UP
        return parts_of_weights(self.problem), SQUARES, rows, *columns

    @property
    def nbytes(self) -> int:
        """Shared memory of a block in bytes."""
        shapes = self.map_shape, self.out_shape, self.band_shape
        return shared_memory(
            *(math.prod(shape) * self.problem.dtype.itemsize for shape in shapes),
            self.cells.nbytes,
            0 if self.weights is None else self.weights.nbytes,
        )


def input_bands_reason(problem: Problem) -> str | None:
    """Why the tensor cores cannot compute the input gradient; ``None`` if they can."""
    geometry = problem.geometry
    if reason := maps_reason(problem) or weights_reason(problem):
        return reason
    if geometry.radius > BEFORE:
        return f"sources are read from more than {STRIPS_OF_SQUARE} strips with {geometry}"
    cells = _cells(problem)
    if BEFORE % aligned_cells(cells.kernels * cells.taps, cells.dtype):
        return (
            f"copies of {cells.dtype} weights, {BEFORE} cells before a block, do not start at a "
            f"multiple of {TMA_ALIGNMENT} bytes"
        )
    try:
        input_band_tile(problem)
    except TooLargeError:
        return f"{geometry} needs more shared memory than a block has"
    return None


@functools.cache
def input_band_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> InputBandTile:
    """The tile for a problem; raises :class:`TooLargeError` if no tile fits."""
    groups = problem.geometry.groups
    cells = _cells(problem)
    weights = normalized_weights(cells, problem.normalizer)

    def tile(channels: int) -> InputBandTile:
        copies = -(-problem.group_channels // channels)
        blocks = -(-copies // (_MAX_CHANNELS // channels))
        return InputBandTile(problem, channels, -(-copies // blocks), max_slots, cells, weights)

    def cost(tile: InputBandTile) -> tuple[bool, int]:
        copies = tile.blocks_per_group * tile.chunks
        return problem.pads_groups(tile.group_channels), copies * (tile.channels + _COPY_COST)

    def is_clipped(tile: InputBandTile) -> bool:
        array = (*problem.size, groups * tile.group_channels)
        return not is_one_piece((SIDE, SIDE, tile.channels), array)

    return first_fitting([*filter(is_clipped, sorted(map(tile, _CHANNELS), key=cost))])


def _cells(problem: Problem) -> CellTile:
    geometry = problem.geometry
    return cell_tile(
        SIDE + 2 * geometry.radius,
        STRIPS * STRIP_CELLS,
        problem.parts,
        UP**2 * geometry.groups // problem.parts,
        geometry.taps,
        problem.cells_dtype,
    )
