"""Buffers in the shared memory of a block, and the requirements of copies."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from carafe_kernels.mosaic_gpu.arrays import TMA_ALIGNMENT, aligned_cells, kernels_per_box, round_up

# Bytes of shared memory on compute capability 9.0 and 10.0.
SHARED_MEMORY = 232_448  # limit of one block
_MULTIPROCESSOR_MEMORY = 233_472  # limit of all blocks of a multiprocessor together
_RESERVED = 1024  # reserved by the system, per block
_COPY_ALIGNMENT = 128  # a copy into shared memory starts at a multiple and moves a multiple
_BUFFER_ALIGNMENT = 1024  # each buffer takes a multiple


@runtime_checkable
class SizedTile(Protocol):
    """A tile that states the shared memory of a block."""

    @property
    def nbytes(self) -> int:
        """Shared memory of a block in bytes."""


class TooLargeError(ValueError):
    """No tile of a problem fits into the shared memory of a block."""

    def __init__(self) -> None:
        super().__init__("the kernels need more shared memory than a block has")


def shared_memory(*buffers: int) -> int:
    """Bytes of shared memory for buffers of the given sizes and for the barriers."""
    return sum(round_up(nbytes, _BUFFER_ALIGNMENT) for nbytes in (*buffers, _BUFFER_ALIGNMENT))


def two_blocks_fit(nbytes: int) -> bool:
    """Whether two blocks with ``nbytes`` of shared memory each fit on a multiprocessor."""
    return 2 * (nbytes + _RESERVED) <= _MULTIPROCESSOR_MEMORY


def first_fitting[Tile: SizedTile](tiles: Sequence[Tile]) -> Tile:
    """The first tile with which two blocks fit on a multiprocessor, or else one block.

    Raises:
        TooLargeError: no tile fits.
    """
    for fits in (two_blocks_fit, lambda nbytes: nbytes <= SHARED_MEMORY):
        for tile in tiles:
            if fits(tile.nbytes):
                return tile
    raise TooLargeError


def matrix_pitch(channels: int, dtype: np.dtype) -> int:
    """Distance in channels between neighbouring pixels of ``channels`` channels in shared memory.

    It is an odd multiple of 16 bytes, so that neighbouring pixels, which are rows of a matrix, lie
    in different memory banks. ``channels`` must fill an even multiple.
    """
    return channels + TMA_ALIGNMENT // np.dtype(dtype).itemsize


def copied_rows(rows: int, row_bytes: int) -> int:
    """``rows``, rounded up so that a copy into shared memory moves a multiple of 128 bytes."""
    return round_up(rows, _COPY_ALIGNMENT // math.gcd(row_bytes, _COPY_ALIGNMENT))


def is_one_piece(box: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether ``box`` is contiguous in an array of ``shape``; axes of size 1 are ignored.

    A contiguous box is stored as one piece, which is clipped only at the end of the array. If a
    tile reaches beyond the end of an axis, such a store would overwrite the data behind it.
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

    The kernels of a row of cells lie one after the other, in boxes of several kernels. A row of a
    box is an odd multiple of 16 bytes long, so that threads that read different rows use different
    memory banks.

    A copy must start at a multiple of 16 bytes in device memory. Therefore it may start with some
    columns of cells that the block does not need, and cells may be padded with kernels of zeros.

    Args:
        rows: number of rows of cells.
        columns: number of columns of cells that the block needs.
        parts: number of parts of a cell, see :mod:`carafe_kernels.mosaic_gpu.arrays`.
        kernels: number of kernels of a part.
        padded_kernels: number of kernels of a part in memory, with padding.
        lead: number of columns of cells that are copied before the needed ones.
        taps: number of taps of a kernel.
        box: number of kernels of a box.
        dtype: dtype of the weights or logits.
    """

    rows: int
    columns: int
    parts: int
    kernels: int
    padded_kernels: int
    lead: int
    taps: int
    box: int
    dtype: np.dtype

    @property
    def boxes(self) -> int:
        """Number of boxes of a part."""
        return -(-(self.lead + self.columns) * self.padded_kernels // self.box)

    @property
    def padded_rows(self) -> int:
        return copied_rows(self.rows, self.box * self.taps * self.dtype.itemsize)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the buffer, ``[parts * boxes, rows, kernels, taps]``."""
        return self.parts * self.boxes, self.padded_rows, self.box, self.taps

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def kernel_axes(self, up: int, groups: int) -> dict[str, int]:
        """Axes of the kernels in the buffer by name, in memory order.

        They are ``row``, ``u``, ``v``, and two axes each for columns of cells and for groups, since
        a box may hold only some of them: ``outer column`` over boxes and ``inner column`` in a box,
        ``outer group`` and ``inner group``. ``lead`` must be 0, cells must have no padding, and a
        box must hold a whole number of the innermost axes.

        Args:
            up: number of output phases of a cell along an axis.
            groups: number of groups.
        """
        boxes = self.boxes
        outer = {"u": up} if self.parts > 1 else {}
        inner = {}
        axes = {"column": self.columns, "u": up, "v": up, "group": groups}
        for name, size in axes.items():
            if name in outer:
                continue
            box_count = min(size, boxes)
            boxes //= box_count
            if name in ("column", "group"):
                outer[f"outer {name}"] = box_count
                inner[f"inner {name}"] = size // box_count
            elif box_count > 1:
                outer[name] = size
            else:
                inner[name] = size
        return {**outer, "row": self.padded_rows, **inner}

    def normalized(self) -> "CellTile":
        """The buffer for normalised weights of the same cells, padding included, in float32."""
        return dataclasses.replace(self, rows=self.padded_rows, dtype=np.dtype(np.float32))


def padded_kernels(kernels: int, taps: int, columns: int, dtype: np.dtype) -> int:
    """The least number of kernels per part so that ``columns`` cells fill a multiple of 16 bytes.

    Args:
        kernels: number of kernels of a part without padding.
        taps: number of taps of a kernel.
        columns: number of columns of cells of a block.
        dtype: dtype of the weights or logits.
    """
    while columns % aligned_cells(kernels * taps, dtype):
        kernels += 1
    return kernels


def cell_tile(
    rows: int,
    columns: int,
    parts: int,
    kernels: int,
    taps: int,
    dtype: np.dtype,
    halo: tuple[int, int] = (0, 0),
) -> CellTile:
    """A :class:`CellTile` that can be copied.

    Args:
        rows: number of rows of cells of a block, without the halo.
        columns: number of columns of cells of a block, without the halo.
        parts: number of parts of a cell.
        kernels: number of kernels of a part.
        taps: number of taps of a kernel.
        dtype: dtype of the weights or logits.
        halo: numbers of cells before and after the block, along each axis, that it also needs.
    """
    padded = padded_kernels(kernels, taps, columns, dtype)
    lead = -halo[0] % aligned_cells(padded * taps, dtype)
    size = rows + sum(halo), columns + sum(halo)
    return CellTile(*size, parts, kernels, padded, lead, taps, kernels_per_box(dtype), dtype)
