"""Which part of a problem a block computes on the tensor cores.

A *square* is 8 x 8 targets, so 64 rows of a matrix, and the cells that they belong to. Its taps lie
in a patch 8 pixels wide. A block computes some squares below each other, whose patches overlap.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, round_up
from carafe_kernels.mosaic_gpu.buffers import (
    SHARED_MEMORY,
    CellTile,
    TooLargeError,
    cell_tile,
    is_one_piece,
    shared_memory,
)
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import MAX_SLOTS

UP = 2
SIDE = 8  # targets of a side of a square, and the width of its patch
TARGETS = SIDE**2
CELLS = SIDE // UP  # of a side of a square
K_STEP = 16  # pixels, two rows of a patch, that one matrix instruction multiplies
_SQUARES = 2  # of a block: a thread holds the bands of all in registers
# A place of a map in shared memory is an odd multiple of 16 bytes from the next one, so that rows
# of a matrix lie in different memory banks; more channels need more registers for sums.
_CHANNELS = tuple(range(88, 0, -16))
_STEP_COST = 16  # channels that a block could compute while it waits and stores once more


def bands_reason(problem: Problem) -> str | None:
    """Why bands cannot serve a problem; ``None`` if they can."""
    geometry, groups = problem.geometry, problem.geometry.groups
    if problem.dtype.itemsize != 2:
        return f"tensor cores multiply 16-bit maps, not {problem.dtype}"
    if (geometry.up, geometry.down) != (UP, 1):
        return f"bands are for up {UP}, not for up {geometry.up} and down {geometry.down}"
    if CELLS + 2 * geometry.radius > SIDE:
        return f"a patch of kernel_size {geometry.kernel_size} is wider than {SIDE} pixels"
    if groups & (groups - 1):
        return f"they need a power of two of groups, not {groups}"
    own = problem.cells_dtype == problem.dtype
    if problem.dtype == jnp.float16 and problem.normalizer is None and not own:
        return f"float16 cannot hold every weight of {problem.cells_dtype}"
    try:
        band_tile(problem)
    except TooLargeError:
        return f"{geometry} needs more shared memory than a block has"
    return None


def parts_of_weights(problem: Problem) -> int:
    """How many 16-bit numbers stand for a weight, as their sum: one if it has 16 bits itself."""
    return 1 if problem.normalizer is None and problem.cells_dtype == problem.dtype else 2


def k_steps(geometry: Geometry) -> int:
    """Matrix instructions along a patch."""
    return -(-(CELLS + 2 * geometry.radius) * SIDE // K_STEP)


@dataclasses.dataclass(frozen=True)
class BandTile:
    """Of the forward pass on the tensor cores.

    Args:
        squares: below each other.
        channels: of a block at a time.
        slots: buffers for the map that comes in.
        map_rows: of those buffers, ``[slots, map_rows, SIDE, channels]``.
        group_channels: channels of a group after padding.
        cells: the weights or logits that are copied into shared memory.
        nbytes: shared memory.
    """

    squares: int
    channels: int
    slots: int
    map_rows: int
    group_channels: int
    cells: CellTile
    nbytes: int

    @property
    def rows(self) -> int:
        """Cells."""
        return self.squares * CELLS

    @property
    def steps(self) -> int:
        """Steps over the channels of a group."""
        return -(-self.group_channels // self.channels)


@functools.cache
def band_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> BandTile:
    """The tile for bands; raises :class:`TooLargeError` if there is none."""
    geometry, groups = problem.geometry, problem.geometry.groups
    rows = _SQUARES * CELLS
    map_rows = rows - CELLS + k_steps(geometry) * K_STEP // SIDE
    cells = cell_tile(
        rows,
        CELLS,
        problem.parts,
        UP**2 * groups // problem.parts,
        geometry.taps,
        problem.cells_dtype,
    )

    def cost(channels: int) -> int:
        return -(-problem.group_channels // channels) * (channels + _STEP_COST)

    for channels in sorted(_CHANNELS, key=cost):
        multiple = TMA_ALIGNMENT // problem.dtype.itemsize if groups == 1 else channels
        group_channels = round_up(problem.group_channels, multiple)
        box, array = (SIDE, SIDE, channels), (*problem.output_size, groups * group_channels)
        nbytes = [
            cells.nbytes,
            groups * _SQUARES * TARGETS * geometry.taps * jnp.dtype(jnp.float32).itemsize,
            max_slots * map_rows * SIDE * channels * problem.dtype.itemsize,
            math.prod(box) * problem.dtype.itemsize,
        ]
        if not is_one_piece(box, array) and shared_memory(*nbytes) <= SHARED_MEMORY:
            return BandTile(
                _SQUARES,
                channels,
                max_slots,
                map_rows,
                group_channels,
                cells,
                shared_memory(*nbytes),
            )
    raise TooLargeError
