"""Tiles of the forward pass on the tensor cores.

A block computes :mod:`squares <carafe_kernels.mosaic_gpu.squares>` of targets. Their weights are
bands, which are multiplied with patches.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp

from carafe_kernels.geometry import Geometry
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
from carafe_kernels.mosaic_gpu.squares import CELLS, SIDE, SQUARES, TARGETS, squares_reason
from carafe_kernels.mosaic_gpu.tensor_cores import K_STEP, UP, weights_reason

# Numbers of channels per step. Each is an odd multiple of 16 bytes, so that neighbouring pixels,
# which are rows of a matrix, lie in different memory banks. More channels need more registers.
_CHANNELS = tuple(range(88, 0, -16))
_STEP_COST = 16  # cost of the waits and stores of a step, as a number of channels


def forward_bands_reason(problem: Problem) -> str | None:
    """Why the tensor cores cannot compute the forward pass; ``None`` if they can."""
    if reason := squares_reason(problem) or weights_reason(problem):
        return reason
    try:
        forward_band_tile(problem)
    except TooLargeError:
        return f"{problem.geometry} needs more shared memory than a block has"
    return None


def k_steps(geometry: Geometry) -> int:
    """Number of matrix instructions along a patch."""
    return -(-(CELLS + 2 * geometry.radius) * SIDE // K_STEP)


@dataclasses.dataclass(frozen=True)
class ForwardBandTile:
    """Tile of the forward pass on the tensor cores.

    Args:
        squares: number of squares below each other.
        channels: number of channels per step.
        slots: number of buffers for the input map.
        map_rows: number of rows of the buffers for the input map, ``[slots, map_rows, SIDE,
            channels]``.
        group_channels: number of channels of a group after padding.
        cells: buffer for the weights or logits.
        nbytes: shared memory of a block in bytes.
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
        """Number of rows of cells."""
        return self.squares * CELLS

    @property
    def steps(self) -> int:
        """Number of steps over the channels of a group."""
        return -(-self.group_channels // self.channels)


@functools.cache
def forward_band_tile(problem: Problem, max_slots: int = MAX_SLOTS) -> ForwardBandTile:
    """The tile for a problem; raises :class:`TooLargeError` if no tile fits."""
    geometry, groups = problem.geometry, problem.geometry.groups
    rows = SQUARES * CELLS
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
        group_channels = problem.padded_group_channels(channels)
        box, array = (SIDE, SIDE, channels), (*problem.output_size, groups * group_channels)
        nbytes = [
            cells.nbytes,
            groups * SQUARES * TARGETS * geometry.taps * jnp.dtype(jnp.float32).itemsize,
            max_slots * map_rows * SIDE * channels * problem.dtype.itemsize,
            math.prod(box) * problem.dtype.itemsize,
        ]
        if not is_one_piece(box, array) and shared_memory(*nbytes) <= SHARED_MEMORY:
            return ForwardBandTile(
                SQUARES,
                channels,
                max_slots,
                map_rows,
                group_channels,
                cells,
                shared_memory(*nbytes),
            )
    raise TooLargeError
