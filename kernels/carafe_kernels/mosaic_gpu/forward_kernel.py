"""The forward pass (Eqn. 3), from weights or from logits (section 3.2)."""

import collections
import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import (
    as_words,
    crop_channels,
    cut_rows,
    from_words,
    join_rows,
    pad_channels,
)
from carafe_kernels.mosaic_gpu.copied_cells import CopiedCells
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import channel_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.tiling import forward_tile
from carafe_kernels.mosaic_gpu.weights import Weights


def forward(x: jax.Array, cells: jax.Array, problem: Problem, settings: Settings) -> Work:
    """Reassembles ``x`` with the reassembly kernels of its cells.

    Args:
        x: feature map ``[B, H, W, C]``.
        cells: weights or logits ``[B, q, p, r, n]``, see :mod:`carafe_kernels.mosaic_gpu.arrays`.
        problem: description of the arrays.
        settings: settings of the kernel.

    Returns:
        The work of the kernel. Its result is ``[B, H', W', C]``, in the dtype of ``x``.
    """
    geometry, groups = problem.geometry, problem.geometry.groups
    tile = forward_tile(problem, settings.max_slots)
    before, _ = geometry.halo
    up, down = geometry.up, geometry.down
    rows, columns = problem.cells
    _, width = problem.output_size
    grid = blocks.Grid(problem.batch, rows, columns, tile.rows, tile.columns)
    layout, row_layout = channel_layout(tile.rows, tile.words, tile.vector)
    copied = CopiedCells(tile.cells, up, (0, 0), settings)
    weights = Weights(problem, tile, row_layout)
    # For each row of sources, the row phases of outputs and the rows of taps that read it.
    uses = collections.defaultdict(list)
    for u in range(up):
        for n in range(geometry.kernel_size):
            uses[geometry.read(u, n)].append((u, n))

    def run(block, operands, y, buffers, barriers):
        (x, cells), (x_tile, y_tile, *kernels) = operands, buffers
        x_barrier, cell_barrier = barriers
        b, row, column = grid.position(block)
        shift = before if settings.pads_maps else 0  # so that no copy starts before the map

        def fetch(chunk, slot):
            plgpu.copy_gmem_to_smem(
                x.at[
                    b,
                    pl.ds(row - before + shift, tile.map_shape[1]),
                    :,
                    pl.ds((column - before + shift) * down, tile.map_shape[3]),
                    pl.ds(chunk * tile.words, tile.words),
                ],
                x_tile.at[slot],
                x_barrier.at[slot],
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )

        def compute(chunk, slot):
            group = blocks.group(chunk, tile.chunks, groups)
            sums: dict[tuple[int, int, int], list[jax.Array]] = {}
            for (row_shift, s), row_uses in uses.items():

                @functools.cache
                def source(pixel, row_shift=row_shift, s=s):
                    start = before + row_shift
                    ref = x_tile.at[slot, pl.ds(start, tile.rows), s, pixel]
                    return blocks.load_words(ref, layout, problem.dtype)

                for u, n in row_uses:
                    for q in range(tile.columns):
                        for v in range(up):
                            for m in range(geometry.kernel_size):
                                column_shift, t = geometry.read(v, m)
                                pixel = (q + before + column_shift) * down + t
                                tap = n * geometry.kernel_size + m
                                weight = weights.load(kernels, 0, q, (u, v, group, tap))
                                weight = blocks.broadcast_words(weight, tile.words, layout)
                                blocks.add_products(sums, (q, u, v), weight, source(pixel))
            # The barrier keeps the compiler from moving the wait to the start of the step.
            plgpu.commit_smem()
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for (q, u, v), total in sums.items():
                blocks.store_words(y_tile.at[:, u, q * up + v, :], total, problem.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(
                y_tile,
                y.at[
                    b,
                    pl.ds(row, tile.rows),
                    :,
                    pl.ds(column * up, tile.out_shape[2]),
                    pl.ds(chunk * tile.words, tile.words),
                ],
            )

        copied.fetch(cells, kernels[0], cell_barrier, b, row, column)
        blocks.pipeline(
            groups * tile.chunks,
            tile.slots,
            fetch,
            x_barrier,
            compute,
            ready=lambda: weights.wait(kernels, cell_barrier),
        )
        plgpu.wait_smem_to_gmem(0)

    def finish(y):
        y = join_rows(from_words(y, problem.dtype), problem.output_size[0])
        return crop_channels(y, groups, problem.group_channels)

    x = cut_rows(as_words(pad_channels(x, groups, tile.group_channels)), down)
    if settings.pads_maps:
        x = jnp.pad(x, ((0, 0), (before, 0), (0, 0), (before * down, 0), (0, 0)))
    return Work(
        grid.size,
        (x, copied.operand(cells)),
        jax.ShapeDtypeStruct((problem.batch, rows, up, width, x.shape[4]), problem.word_dtype),
        weights.memory,
        (plgpu.Barrier(num_barriers=tile.slots), copied.barrier),
        run,
        finish,
    )
