"""The layouts of arrays in device memory that the kernels read and write.

Tensor memory accesses (TMA) copy boxes of an array with at most five axes. Strides must be
multiples of 16 bytes, a box must start at a multiple of 16 bytes along the last axis, and boxes may
have at most 256 elements along an axis. Where a box reaches outside the array, a load fills it with
zeros, and a store is clipped.

The rows of maps are split into cells and phases (:mod:`carafe_kernels.geometry`). Weights and
logits have the layout ``[b, q, p, r, n]``: ``n`` entries hold the kernels of part ``p`` of a cell,
one after the other. For weights a part is a row of output phases, for logits it is the whole cell.
Both layouts are views of the caller's arrays.

Letters in shape comments: ``q`` and ``r`` are rows and columns of cells, ``p`` are parts or phases
of a cell, and ``n`` are entries, a whole number of kernels of ``k * k`` taps.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from carafe_kernels.geometry import Geometry

TMA_ALIGNMENT = 16  # bytes
MAX_BOX = 256  # elements of an axis that one copy moves
MAX_INDEX = 2**31 - 1  # indices are 32-bit


def round_up(size: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is at least ``size``."""
    return -(-size // multiple) * multiple


def aligned(size: int, dtype: np.dtype) -> int:
    """``size`` elements, rounded up to a multiple of 16 bytes."""
    return round_up(size, TMA_ALIGNMENT // np.dtype(dtype).itemsize)


def aligned_cells(entries: int, dtype: np.dtype) -> int:
    """The least number of cells of ``entries`` entries that fill a multiple of 16 bytes."""
    return TMA_ALIGNMENT // math.gcd(TMA_ALIGNMENT, entries * np.dtype(dtype).itemsize)


def kernels_per_box(dtype: np.dtype) -> int:
    """The least number of kernels, with an odd number of taps, that fill a multiple of 16 bytes."""
    return TMA_ALIGNMENT // np.dtype(dtype).itemsize


def copied_dtype(dtype: np.dtype, geometry: Geometry) -> np.dtype:
    """The dtype in which kernels are copied: float32 if kernels in ``dtype`` exceed a box.

    A box of 16-bit kernels with 49 taps would have more than 256 elements.
    """
    fits = kernels_per_box(dtype) * geometry.taps <= MAX_BOX
    return np.dtype(dtype if fits else np.float32)


def _pad(array: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    if before == after == 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = before, after
    return jnp.pad(array, widths)


def pad_channels(array: jax.Array, groups: int, group_channels: int) -> jax.Array:
    """Pads each group with zeros.

    ``[b, h, w, groups * c] -> [b, h, w, groups * group_channels]``.
    """
    *shape, channels = array.shape
    if channels == groups * group_channels:
        return array
    split = array.reshape(*shape, groups, channels // groups)
    split = _pad(split, 4, 0, group_channels - channels // groups)
    return split.reshape(*shape, groups * group_channels)


def crop_channels(array: jax.Array, groups: int, group_channels: int) -> jax.Array:
    """Undoes :func:`pad_channels`."""
    *shape, channels = array.shape
    if channels == groups * group_channels:
        return array
    split = array.reshape(*shape, groups, channels // groups)[..., :group_channels]
    return split.reshape(*shape, groups * group_channels)


def as_words(array: jax.Array) -> jax.Array:
    """Views 16-bit ``[..., c]`` as 32-bit ``[..., c / 2]``, the even channel in the lower half.

    A thread can load four words at once. Arrays of 32 bits are returned unchanged.
    """
    if array.dtype.itemsize == 4:
        return array
    pairs = array.reshape(*array.shape[:-1], array.shape[-1] // 2, 2)
    return lax.bitcast_convert_type(pairs, jnp.uint32)


def from_words(array: jax.Array, dtype: np.dtype) -> jax.Array:
    """Undoes :func:`as_words`."""
    if array.dtype.itemsize == np.dtype(dtype).itemsize:
        return array
    pairs = lax.bitcast_convert_type(array, dtype)
    return pairs.reshape(*array.shape[:-1], 2 * array.shape[-1])


def cut_rows(array: jax.Array, phases: int) -> jax.Array:
    """``[b, h, w, c] -> [b, q, p, w, c]``; rows of zeros fill the last cell."""
    batch, height, width, channels = array.shape
    cells = -(-height // phases)
    array = _pad(array, 1, 0, cells * phases - height)
    return array.reshape(batch, cells, phases, width, channels)


def cut_rows_and_columns(array: jax.Array, phases: int) -> jax.Array:
    """``[b, h, w, c] -> [b, q, p, r, p * c]``; rows and columns of zeros fill the last cells."""
    array = _pad(array, 2, 0, -array.shape[2] % phases)
    array = cut_rows(array, phases)
    batch, rows, _, width, channels = array.shape
    return array.reshape(batch, rows, phases, width // phases, phases * channels)


def join_rows(array: jax.Array, height: int) -> jax.Array:
    """Undoes :func:`cut_rows`."""
    batch, cells, phases, width, channels = array.shape
    return array.reshape(batch, cells * phases, width, channels)[:, :height]


def pad_columns_of_cells(cells: jax.Array, columns: int) -> jax.Array:
    """``[b, q, p, r, n] -> [b, q, p, columns, n]``, with zeros after the last cell."""
    return _pad(cells, 3, 0, columns - cells.shape[3])


def pad_entries_of_cells(cells: jax.Array, entries: int) -> jax.Array:
    """``[b, q, p, r, n] -> [b, q, p, r, entries]``, with zeros after the last entry."""
    return _pad(cells, 4, 0, entries - cells.shape[4])


def cells_from_weights(weights: jax.Array, geometry: Geometry) -> jax.Array:
    """``[b, q * u, r * v, n] -> [b, q, u, r, v * n]``, a view."""
    up = geometry.up
    batch, height, width, kernels = weights.shape
    return weights.reshape(batch, height // up, up, width // up, up * kernels)


def weights_from_cells(cells: jax.Array, geometry: Geometry) -> jax.Array:
    """``[b, q, p, r, n] -> [b, q * u, r * v, n]``, for any number of parts ``p``."""
    up, kernels = geometry.up, geometry.weight_channels
    batch, rows, _, columns, _ = cells.shape
    if cells.shape[2] != up:
        cells = split_parts(cells_from_logits(logits_from_cells(cells)), up)
    return cells.reshape(batch, rows * up, columns * up, kernels)


def cells_from_logits(logits: jax.Array) -> jax.Array:
    """``[b, q, r, n] -> [b, q, 1, r, n]``."""
    return logits[:, :, None]


def logits_from_cells(cells: jax.Array) -> jax.Array:
    """``[b, q, p, r, n] -> [b, q, r, p * n]``, for any number of parts ``p``."""
    batch, rows, parts, columns, entries = cells.shape
    return cells.swapaxes(2, 3).reshape(batch, rows, columns, parts * entries)


def split_parts(cells: jax.Array, parts: int) -> jax.Array:
    """``[b, q, 1, r, p * n] -> [b, q, p, r, n]``."""
    batch, rows, _, columns, entries = cells.shape
    split = cells.reshape(batch, rows, columns, parts, entries // parts)
    return split.swapaxes(2, 3)
