"""Gradients in a loop over blocks of rows, for a CPU.

XLA for CPUs compiles such a loop to a function that runs on one thread. In it, XLA vectorises sums
over channels, which it does not do outside of a loop; a block stays in the cache, and only a block
is padded, not the whole map.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from carafe_kernels.axes import merge_axes
from carafe_kernels.geometry import Geometry
from carafe_kernels.xla.cells import Block, Rows, Span
from carafe_kernels.xla.contractions import input_gradient, weight_gradient


def input_gradient_in_blocks(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[int, int],
    dtype: np.dtype,
    result_dtype: np.dtype,
    block_bytes: int,
) -> Float[Array, "batch height width channels"]:
    """Computes :func:`carafe_kernels.xla.contractions.input_gradient` block by block.

    Args:
        weights: reassembly kernels ``[B, H', W', groups * k * k]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: geometry of the reassembly.
        size: height and width of the map, ``(H, W)``.
        dtype: dtype of the sums.
        result_dtype: dtype of the result.
        block_bytes: approximate size in bytes of the part of ``y`` in a block, in ``dtype``.

    Returns:
        The gradient ``[B, H, W, C]`` in ``result_dtype``.
    """
    geometry = geometry.lowest_terms

    def block(weights: jax.Array, y: jax.Array, rows: Rows) -> jax.Array:
        return input_gradient(weights, y, geometry, size, dtype, rows).astype(result_dtype)

    cells = geometry.cells(size[0])
    row_bytes = geometry.up * math.prod(y.shape[2:]) * dtype.itemsize
    # A block also copies the rows that it reads around it, so small blocks copy too much.
    at_least = geometry.kernel_size
    rows = rows_of_block(y.shape[0], cells, row_bytes, block_bytes, at_least=at_least)
    return in_blocks(block, (weights, y), cells, rows)[:, : size[0]]


def weight_gradient_in_blocks(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    dtype: np.dtype,
    result_dtype: np.dtype,
    block_bytes: int,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Computes :func:`carafe_kernels.xla.contractions.weight_gradient` block by block.

    Args:
        x: feature map ``[B, H, W, C]``.
        y: cotangent of the output, ``[B, H', W', C]``.
        geometry: geometry of the reassembly.
        dtype: dtype of the sums.
        result_dtype: dtype of the result.
        block_bytes: approximate size in bytes of the parts of ``x`` and ``y`` in a block, in
            ``dtype``.

    Returns:
        The gradient ``[B, H', W', groups * k * k]`` in ``result_dtype``.
    """
    geometry = geometry.lowest_terms

    def block(x: jax.Array, y: jax.Array, rows: Rows) -> jax.Array:
        return weight_gradient(x, y, geometry, dtype, rows).astype(result_dtype)

    cells = geometry.cells(x.shape[1])
    lines = geometry.down * math.prod(x.shape[2:]), geometry.up * math.prod(y.shape[2:])
    row_bytes = sum(lines) * dtype.itemsize
    rows = rows_of_block(y.shape[0], cells, row_bytes, block_bytes, at_least=2)
    return in_blocks(block, (x, y), cells, rows)[:, : y.shape[1]]


def rows_of_block(
    batch: int, cells: int, row_bytes: int, block_bytes: int, *, at_least: int
) -> int:
    """Number of rows of cells in a block of approximately ``block_bytes``.

    Args:
        batch: number of images.
        cells: number of rows of cells.
        row_bytes: number of bytes in a row of cells.
        block_bytes: number of bytes in a block.
        at_least: smallest number of rows in a block.
    """
    least_blocks = 2 if batch == 1 else 1  # XLA makes no loop of a single step
    rows = max(at_least, block_bytes // max(1, row_bytes))
    rows = -(-cells // max(least_blocks, -(-cells // rows)))
    # Prefer a size that divides the map, so that no block reaches over its end.
    largest = min(2 * rows, cells // least_blocks)
    whole = [n for n in range(max(at_least, rows // 2), largest + 1) if cells % n == 0]
    return min(whole, key=lambda n: abs(n - rows), default=rows)


def in_blocks(
    block: Callable[[jax.Array, jax.Array, Rows], jax.Array],
    arrays: tuple[jax.Array, jax.Array],
    cells: int,
    rows: int,
) -> jax.Array:
    """Maps ``block`` over the images and over blocks of ``rows`` of their ``cells``.

    Returns:
        An array ``[B, cells, ...]``, with further rows if ``rows`` does not divide ``cells``.
    """
    batch = arrays[0].shape[0]
    blocks = math.ceil(cells / rows)

    def compute_block(index: jax.Array) -> jax.Array:
        image, row = index // blocks, index % blocks * rows
        first, second = (lax.dynamic_slice_in_dim(array, image, 1) for array in arrays)
        at = Block(rows, row, (blocks - 1) * rows) if blocks > 1 else Span(rows)
        return block(first, second, at)[0]

    out = lax.map(compute_block, jnp.arange(batch * blocks, dtype=np.int32))
    return merge_axes(out.reshape(batch, blocks, *out.shape[1:]), 1)
