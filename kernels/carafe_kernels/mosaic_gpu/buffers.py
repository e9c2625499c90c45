"""Buffers in the shared memory of a block, and what copies ask of them."""

import dataclasses
import math

import numpy as np

from carafe_kernels.mosaic_gpu.arrays import kernels_per_box, round_up

# Bytes of shared memory on compute capability 9.0 and 10.0.
SHARED_MEMORY = 232_448  # that one block may have
_MULTIPROCESSOR_MEMORY = 233_472  # for all blocks of a multiprocessor
_RESERVED = 1024  # of each block, for the system
_COPY_ALIGNMENT = 128  # bytes; what a copy into shared memory starts at and moves multiples of
_BUFFER_ALIGNMENT = 1024  # bytes; each buffer takes whole multiples


class TooLargeError(ValueError):
    """No tile of a problem fits into the shared memory of a block."""

    def __init__(self) -> None:
        super().__init__("the kernels need more shared memory than a block has")


def shared_memory(*buffers: int) -> int:
    """Bytes that buffers take, and barriers with them."""
    return sum(round_up(nbytes, _BUFFER_ALIGNMENT) for nbytes in (*buffers, _BUFFER_ALIGNMENT))


def two_blocks_fit(nbytes: int) -> bool:
    """Whether two blocks of this much shared memory share a multiprocessor."""
    return 2 * (nbytes + _RESERVED) <= _MULTIPROCESSOR_MEMORY


def copied_rows(rows: int, row_bytes: int) -> int:
    """``rows``, and as many more as a copy into shared memory must take along."""
    return round_up(rows, _COPY_ALIGNMENT // math.gcd(row_bytes, _COPY_ALIGNMENT))


def is_one_piece(box: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether ``box`` is contiguous in an array of ``shape``; an axis of one place never matters.

    Such a box is stored as one piece, clipped at the end of the array only: where a tile reaches
    over the end of an axis, it would overwrite what comes next.
    """
    expected = stride = 1
    for size, length in zip(reversed(box), reversed(shape), strict=True):
        if size != 1 and stride != expected:
            return False
        expected, stride = expected * size, stride * length
    return True


@dataclasses.dataclass(frozen=True)
class CellTile:
    """Weights or logits of a tile of cells in shared memory.

    The kernels of a row of cells lie one after the other, in boxes of a few. A row of a box is an
    odd multiple of 16 bytes, which keeps threads that read different rows out of each other's
    memory banks.

    Args:
        rows: cells.
        columns: cells.
        parts: of each cell, see :mod:`carafe_kernels.mosaic_gpu.arrays`.
        kernels: of a cell in one part.
        taps: of a kernel.
        box: kernels of a box.
        dtype: of the entries.
    """

    rows: int
    columns: int
    parts: int
    kernels: int
    taps: int
    box: int
    dtype: np.dtype

    @property
    def boxes(self) -> int:
        """Of one part."""
        return -(-self.columns * self.kernels // self.box)

    @property
    def padded_rows(self) -> int:
        return copied_rows(self.rows, self.box * self.taps * self.dtype.itemsize)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the buffer, ``[parts * boxes, rows, kernels, taps]``."""
        return self.parts * self.boxes, self.padded_rows, self.box, self.taps

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def normalized(self) -> "CellTile":
        """Room for the weights of the same cells in float32, rows that copies fill up included."""
        return dataclasses.replace(self, rows=self.padded_rows, dtype=np.dtype(np.float32))


def cell_tile(
    rows: int, columns: int, parts: int, kernels: int, taps: int, dtype: np.dtype
) -> CellTile:
    """A :class:`CellTile` that copies can fill."""
    return CellTile(rows, columns, parts, kernels, taps, kernels_per_box(dtype), dtype)
