"""How the 128 threads of a block share arrays."""

from typing import Any

from jax.experimental.mosaic import gpu as mgpu
from jax.experimental.pallas import mosaic_gpu as plgpu

type Layout = Any  # Pallas exports no name for what plgpu.Layout.TILED(...) returns

THREADS = 128
WARPS = 4


def _layout(tiles: tuple[tuple[int, ...], ...], shared_by: int = 1) -> mgpu.TiledLayout:
    """Tiles of two axes: of a block, of its warps and of their threads' vectors.

    `shared_by` lanes of a warp hold the same elements.
    """
    replicated = (plgpu.Replicated(shared_by),) if shared_by > 1 else ()
    return mgpu.TiledLayout(
        plgpu.Tiling(tiles), (-6, -5), (-4, -3, *replicated), -1, _check_canonical=False
    ).canonicalize()


def _parameters(layout: mgpu.TiledLayout) -> Layout:
    return plgpu.Layout.TILED(layout.tiling, layout.warp_dims, layout.lane_dims, layout.vector_dim)


def channel_layout(rows: int, channels: int, vector: int) -> tuple[Layout, Layout]:
    """Layouts of ``[rows, channels]`` and, the same in all channels, of ``[rows]``.

    A thread holds ``vector`` channels of one row.
    """
    layout = _layout(((rows, channels), (rows // WARPS, channels), (1, vector)))
    return _parameters(layout), _parameters(layout.reduce((1,)))


def cell_block(columns: int, rows: int) -> tuple[int, int]:
    """The largest part of ``[columns, rows]`` that divides it and has a thread for each cell."""
    block_rows = min(rows & -rows, THREADS)
    return min(columns & -columns, THREADS // block_rows), block_rows


def cell_layout(columns: int, rows: int) -> Layout:
    """Layout of a :func:`cell_block`, with cells of their own for each warp.

    Where there are fewer cells than threads, lanes of one warp share a cell, never two warps: a
    warp that is behind would read what another has overwritten.
    """
    warp_rows = min(WARPS, rows)
    warp = columns * warp_rows // WARPS, rows // warp_rows
    return _parameters(_layout(((columns, rows), warp, (1, 1)), THREADS // (columns * rows)))
