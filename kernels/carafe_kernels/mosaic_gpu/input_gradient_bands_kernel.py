"""The gradient with respect to the map ``x`` on the tensor cores.

The gradient of a source square is a sum over strips: a *band*, a matrix of the weights with which
targets read sources, times the gradients of the targets. It is gathered, as by the kernel of
multiply-adds, so the result is the same to the last bit in every run. A gradient that is not finite
affects all sources of the squares next to it, not only the sources that its target reads.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import crop_channels, pad_channels
from carafe_kernels.mosaic_gpu.copied_cells import CopiedCells
from carafe_kernels.mosaic_gpu.input_band_tiling import (
    SIDE,
    SOURCES,
    SQUARES,
    STRIP_CELLS,
    STRIP_TARGETS,
    STRIPS,
    STRIPS_OF_SQUARE,
    input_band_tile,
)
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts
from carafe_kernels.mosaic_gpu.normalized_cells import normalize_cells
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.source_bands import SourceBands
from carafe_kernels.mosaic_gpu.tensor_cores import UP


def input_gradient(cells: jax.Array, y: jax.Array, problem: Problem, settings: Settings) -> Work:
    """Gathers, for each source pixel, ``weights * y`` from the outputs that read it.

    Args:
        cells: weights or logits ``[B, q, p, r, n]``.
        y: gradient with respect to the output, ``[B, H', W', C]``.
        problem: description of the arrays, for which
            :func:`carafe_kernels.mosaic_gpu.input_band_tiling.input_bands_reason` returns ``None``.
        settings: settings of the kernel.

    Returns:
        The work of the kernel. Its result is ``[B, H, W, C]``, in the dtype of ``y``.
    """
    groups = problem.geometry.groups
    tile = input_band_tile(problem, settings.max_slots)
    height, width = problem.size
    grid = blocks.Grid(problem.batch, height, width, SIDE, SQUARES * SIDE)
    channel_blocks = groups * tile.blocks_per_group
    copied = CopiedCells(tile.cells, UP, tile.before, settings)
    bands = SourceBands(problem, tile)
    _, _, right, sums_layout = matrix_layouts(problem.dtype, row_warps=1)
    steps = tile.cell_rows * tile.chunks
    shift = tile.before if settings.pads_maps else (0, 0)  # so that no copy starts before the map

    def run(block, operands, x, buffers, barriers):
        (cells, y), (y_tile, x_tile, band_tile, *kernels) = operands, buffers
        y_barrier, cell_barrier = barriers
        b, row, column = grid.position(blocks.div(block, channel_blocks))
        group, block_of_group = blocks.split(
            blocks.rem(block, channel_blocks), tile.blocks_per_group
        )
        first_channel = group * tile.group_channels + block_of_group * tile.block_channels
        first_row = row - tile.before[0] + shift[0]
        first_column = column - tile.before[1] + shift[1]
        targets = y_tile.reshape(tile.slots * STRIPS * STRIP_TARGETS, tile.pitch)

        def fetch(step, slot):
            cell_row, chunk = blocks.split(step, tile.chunks)
            for strip in range(STRIPS):
                plgpu.copy_gmem_to_smem(
                    y.at[
                        b,
                        pl.ds((first_row + cell_row) * UP, UP),
                        pl.ds((first_column + strip * STRIP_CELLS) * UP, STRIP_CELLS * UP),
                        pl.ds(first_channel + chunk * tile.channels, tile.pitch),
                    ],
                    y_tile.at[slot, strip],
                    y_barrier.at[slot],
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )

        def add_row(cell_row, sums):
            bands.store(kernels[-1], band_tile, group, cell_row)
            plgpu.commit_smem()
            row_bands = bands.load(band_tile, cell_row)
            sums = list(sums)
            for chunk in range(tile.chunks):
                mine = slice(chunk * SQUARES, (chunk + 1) * SQUARES)

                def add_strips(_, slot, mine=mine):
                    added = sums[mine]
                    for strip in range(STRIPS):
                        first = (slot * STRIPS + strip) * STRIP_TARGETS
                        ref = targets.at[pl.ds(first, STRIP_TARGETS), pl.ds(0, tile.channels)]
                        gradients = plgpu.load(ref, layout=right, optimized=False)
                        for square in range(SQUARES):
                            if 0 <= strip - square < STRIPS_OF_SQUARE:
                                for band in row_bands[square, strip - square]:
                                    added[square] = plgpu.mma(added[square], band, gradients)
                    plgpu.commit_smem()  # the slot is free once all threads have read it
                    return added

                sums[mine] = blocks.pipelined_step(
                    cell_row * tile.chunks + chunk,
                    steps,
                    tile.slots,
                    fetch,
                    y_barrier,
                    add_strips,
                )
            return tuple(sums)

        copied.fetch(cells, kernels[0], cell_barrier, b, row, column)
        fetch(blocks.traced_zero(), jnp.int32(0))
        bands.clear(band_tile)
        plgpu.barrier_wait(cell_barrier)
        if problem.normalizer is not None:
            normalize_cells(tile.cells, kernels[0], kernels[-1], problem.normalizer)
        zeros = jnp.zeros((SOURCES, tile.channels), jnp.float32)
        zeros = plgpu.layout_cast(zeros, sums_layout)
        sums = blocks.loop(tile.cell_rows, add_row, (zeros,) * (tile.chunks * SQUARES))
        for chunk in range(tile.chunks):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for square, total in enumerate(sums[chunk * SQUARES : (chunk + 1) * SQUARES]):
                blocks.store(x_tile.at[square].reshape(SOURCES, tile.channels), total)
            plgpu.commit_smem()
            for square in range(SQUARES):
                plgpu.copy_smem_to_gmem(
                    x_tile.at[square],
                    x.at[
                        b,
                        pl.ds(row, SIDE),
                        pl.ds(column + square * SIDE, SIDE),
                        pl.ds(first_channel + chunk * tile.channels, tile.channels),
                    ],
                )
        plgpu.wait_smem_to_gmem(0)

    def finish(x):
        return crop_channels(x, groups, problem.group_channels)

    y = pad_channels(y, groups, tile.group_channels)
    if settings.pads_maps:
        rows, columns = (UP * cells for cells in tile.before)
        y = jnp.pad(y, ((0, 0), (rows, 0), (columns, 0), (0, 0)))
    buffers = [
        plgpu.SMEM(tile.map_shape, problem.dtype),
        plgpu.SMEM(tile.out_shape, problem.dtype),
        bands.scratch,
        copied.buffer,
    ]
    if tile.weights is not None:
        buffers.append(plgpu.SMEM(tile.weights.shape, tile.weights.dtype))
    return Work(
        grid.size * channel_blocks,
        (copied.operand(cells), y),
        jax.ShapeDtypeStruct((problem.batch, height, width, y.shape[3]), problem.dtype),
        (tuple(buffers),),
        (plgpu.Barrier(num_arrivals=STRIPS, num_barriers=tile.slots), copied.barrier),
        run,
        finish,
    )
