"""Layouts: the distribution of arrays over the 128 threads of a block."""

import math
from typing import Any

import numpy as np
from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu

type Layout = Any  # Pallas exports no name for the type of plgpu.Layout.TILED(...)

THREADS = 128
WARPS = 4


def _layout(tiles: tuple[tuple[int, ...], ...], shared_by: int = 1) -> mgpu.TiledLayout:
    """The layout with tiles of a block, of a warp and of the vector of a thread.

    Args:
        tiles: shapes of the three tiles, all of one rank.
        shared_by: number of lanes of a warp that hold the same elements.
    """
    rank = len(tiles[0])
    replicated = (plgpu.Replicated(shared_by),) if shared_by > 1 else ()
    return mgpu.TiledLayout(
        plgpu.Tiling(tiles),
        tuple(range(-3 * rank, -2 * rank)),
        (*range(-2 * rank, -rank), *replicated),
        -1,
        _check_canonical=False,
    ).canonicalize()


def _parameters(layout: mgpu.TiledLayout) -> Layout:
    return plgpu.Layout.TILED(layout.tiling, layout.warp_dims, layout.lane_dims, layout.vector_dim)


def channel_layout(rows: int, channels: int, vector: int) -> tuple[Layout, Layout]:
    """The layout of ``[rows, channels]``, and the layout of ``[rows]`` that broadcasts to it.

    A thread holds ``vector`` channels of one row.
    """
    layout = _layout(((rows, channels), (rows // WARPS, channels), (1, vector)))
    return _parameters(layout), _parameters(layout.reduce((1,)))


def cell_layout(rows: int, columns: int) -> Layout:
    """The layout of ``[rows, columns]`` with one thread for each cell.

    A warp holds whole rows. Threads that load at the same time are neighbours in a row, whose
    pixels lie in different memory banks.
    """
    return _parameters(_layout(((rows, columns), (rows // WARPS, columns), (1, 1))))


def kernel_block(boxes: int, rows: int, kernels: int) -> tuple[int, int, int]:
    """The largest block that divides ``[boxes, rows, kernels]``, at most one kernel per thread."""
    block_rows = min(rows & -rows, THREADS // kernels)
    return min(boxes & -boxes, THREADS // (block_rows * kernels)), block_rows, kernels


def kernel_layout(boxes: int, rows: int, kernels: int) -> Layout:
    """The layout of a :func:`kernel_block`; the kernels of a warp are contiguous in memory.

    If there are fewer kernels than threads, several lanes of one warp hold the same kernel. Two
    warps never do, because a slower warp could read what the other has already overwritten.
    """
    size = math.prod((boxes, rows, kernels))
    warp_kernels = size // WARPS
    warp_rows = min(rows, warp_kernels // kernels)
    warp = warp_kernels // (warp_rows * kernels), warp_rows, kernels
    return _parameters(_layout(((boxes, rows, kernels), warp, (1, 1, 1)), THREADS // size))


def row_major_layout(shape: tuple[int, ...], without: tuple[int, ...] = ()) -> Layout:
    """The layout of an array with one element for each thread, in row-major order.

    Args:
        shape: shape of the array.
        without: axes that are left out; the layout then broadcasts to the one with all axes.
    """
    warp, left = [], THREADS // WARPS
    for size in reversed(shape):
        warp.append(min(size, left))
        left //= warp[-1]
    layout = _layout((shape, tuple(reversed(warp)), (1,) * len(shape)))
    return _parameters(layout.reduce(without) if without else layout)


def warp_axes_layout(
    shape: tuple[int, ...], warp_axes: tuple[int, ...], without: tuple[int, ...] = ()
) -> Layout:
    """The layout of an array with one element for each thread; each warp has its own indices.

    Args:
        shape: shape of the array.
        warp_axes: axes along which each warp has one index.
        without: axes that are left out; the layout then broadcasts to the one with all axes.
    """
    warp = tuple(1 if axis in warp_axes else size for axis, size in enumerate(shape))
    layout = _layout((shape, warp, (1,) * len(shape)))
    return _parameters(layout.reduce(without) if without else layout)


def matrix_layouts(
    dtype: np.dtype, row_warps: int = WARPS
) -> tuple[Layout, Layout, Layout, Layout]:
    """Layouts for the tensor cores, where a warp holds 16 rows of a product.

    Args:
        dtype: dtype of the factors.
        row_warps: number of warps that hold different rows. The others hold different columns, 8 of
            them each.

    Returns:
        The layouts of the left factor ``[16 * row_warps, 16]``, of its rows, of the right factor
        ``[16, n]`` and of the sums ``[16 * row_warps, n]``.
    """
    layouts = mgpu.MMALayouts(dtype, m_warps=row_warps)
    left, right, sums = map(_parameters, (layouts.lhs, layouts.rhs, layouts.acc))
    return left, _parameters(layouts.lhs.reduce((1,))), right, sums
