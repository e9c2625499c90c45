"""The layouts of arrays in device memory that the kernels read and write.

Tensor memory accesses (TMA) want at most five axes, strides that are multiples of 16 bytes, and
boxes of at most 256 elements an axis; they fill with zeros, and clip, what lies outside an array.
So maps come cut into cells along the rows (:mod:`carafe_kernels.geometry`), and kernels as the
logits come out of a convolution: all that belongs to a cell together, padded to 16 bytes.

Letters in shape comments: ``q``, ``r`` rows and columns of cells; ``p`` phases in a cell.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from carafe_kernels.geometry import Geometry

TMA_ALIGNMENT = 16  # bytes


def round_up(size: int, multiple: int) -> int:
    """The least multiple of ``multiple`` that is at least ``size``."""
    return -(-size // multiple) * multiple


def aligned(size: int, dtype: np.dtype) -> int:
    """``size`` elements, rounded up to what TMA can address."""
    return round_up(size, TMA_ALIGNMENT // np.dtype(dtype).itemsize)


def _pad(array: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    if before == after == 0:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = before, after
    return jnp.pad(array, widths)


def pad_channels(array: jax.Array, groups: int, group_channels: int) -> jax.Array:
    """``[b, h, w, groups * c] -> [b, h, w, groups * group_channels]``, zeros after each group."""
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
    """``[..., c]`` of 16 bits as ``[..., c / 2]`` of 32, the even channel in the lower half.

    The same bytes; a thread that reads whole words reads four at once. 32-bit arrays stay.
    """
    if array.dtype.itemsize == 4:
        return array
    pairs = array.reshape(*array.shape[:-1], array.shape[-1] // 2, 2)
    return lax.bitcast_convert_type(pairs, jnp.uint32)


def cut_rows(array: jax.Array, phases: int) -> jax.Array:
    """``[b, h, w, c] -> [b, q, p, w, c]``; rows of zeros complete the last cell."""
    batch, height, width, channels = array.shape
    cells = -(-height // phases)
    array = _pad(array, 1, 0, cells * phases - height)
    return array.reshape(batch, cells, phases, width, channels)


def cut_rows_and_columns(array: jax.Array, phases: int) -> jax.Array:
    """``[b, h, w, c] -> [b, q, p, r, p * c]``; zeros complete the last cells."""
    array = _pad(array, 2, 0, -array.shape[2] % phases)
    array = cut_rows(array, phases)
    batch, rows, _, width, channels = array.shape
    return array.reshape(batch, rows, phases, width // phases, phases * channels)


def join_rows(array: jax.Array, height: int) -> jax.Array:
    """Undoes :func:`cut_rows`."""
    batch, cells, phases, width, channels = array.shape
    return array.reshape(batch, cells * phases, width, channels)[:, :height]


def align_cells(cells: jax.Array) -> jax.Array:
    """``[b, q, r, n]`` with ``n`` padded to what TMA can address.

    Two columns at least: copies drop an axis of one, and would find no zeros beside it.
    """
    cells = _pad(cells, 2, 0, max(0, 2 - cells.shape[2]))
    return _pad(cells, 3, 0, aligned(cells.shape[3], cells.dtype) - cells.shape[3])


def cells_from_weights(weights: jax.Array, geometry: Geometry) -> jax.Array:
    """``[b, q * u, r * v, n] -> [b, q, r, u * v * n]``: weights in the order of logits."""
    up = geometry.up
    batch, height, width, kernels = weights.shape
    split = weights.reshape(batch, height // up, up, width // up, up, kernels)
    return split.swapaxes(2, 3).reshape(batch, height // up, width // up, up * up * kernels)


def weights_from_cells(cells: jax.Array, geometry: Geometry) -> jax.Array:
    """Undoes :func:`cells_from_weights`, alignment included."""
    up = geometry.up
    batch, rows, columns, _ = cells.shape
    split = cells[..., : geometry.logit_channels]
    split = split.reshape(batch, rows, columns, up, up, geometry.weight_channels).swapaxes(2, 3)
    return split.reshape(batch, rows * up, columns * up, geometry.weight_channels)
