"""The gradient with respect to the map ``x`` on the tensor cores.

The gradient of a quad is a sum over strips: a *band*, a matrix of the weights with which targets
read sources, times the gradients of the targets. It is gathered, like the other kernel of the input
gradient, so the result is the same to the last bit in every run. A gradient that is not finite
affects all sources of the quads next to it, not only the sources that its target reads.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import crop_channels, pad_channels
from carafe_kernels.mosaic_gpu.band_tiling import UP
from carafe_kernels.mosaic_gpu.copied_cells import CopiedCells
from carafe_kernels.mosaic_gpu.input_band_tiling import (
    HALO,
    QUAD,
    QUADS,
    STRIP_TARGETS,
    STRIPS,
    input_band_tile,
)
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts
from carafe_kernels.mosaic_gpu.normalized_cells import normalize_cells
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.source_bands import SourceBands


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
    geometry, groups = problem.geometry, problem.geometry.groups
    tile = input_band_tile(problem, settings.max_slots)
    height, width = problem.size
    before = geometry.radius, HALO  # rows and columns of cells before the quads of a block
    grid = blocks.Grid(problem.batch, height, width, QUAD, QUADS * QUAD)
    parts = groups * tile.blocks_per_group
    copied = CopiedCells(tile.cells, UP, before, settings)
    bands = SourceBands(problem, tile)
    _, _, right, sums_layout = matrix_layouts(problem.dtype, row_warps=1)
    steps = tile.cell_rows * tile.chunks
    shift = before if settings.pads_maps else (0, 0)  # so that no copy starts before the map

    def run(block, operands, x, buffers, barriers):
        (cells, y), (y_tile, x_tile, band_tile, *kernels) = operands, buffers
        y_barrier, cell_barrier = barriers
        part = blocks.rem(block, parts)
        b, row, column = grid.position(blocks.div(block, parts))
        group, block_of_group = blocks.split(part, tile.blocks_per_group)
        first_channel = group * tile.group_channels + block_of_group * (tile.chunks * tile.channels)
        targets = y_tile.reshape(tile.slots * STRIPS * STRIP_TARGETS, tile.pitch)

        def fetch(step, slot):
            cell_row, chunk = blocks.split(step, tile.chunks)
            for strip in range(STRIPS):
                first = column - before[1] + shift[1] + strip * QUAD
                plgpu.copy_gmem_to_smem(
                    y.at[
                        b,
                        pl.ds((row - before[0] + shift[0] + cell_row) * UP, UP),
                        pl.ds(first * UP, QUAD * UP),
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

                def add_strips(_, slot, chunk=chunk):
                    added = sums[chunk * QUADS : (chunk + 1) * QUADS]
                    for strip in range(STRIPS):
                        first = (slot * STRIPS + strip) * STRIP_TARGETS
                        ref = targets.at[pl.ds(first, STRIP_TARGETS), pl.ds(0, tile.channels)]
                        gradients = plgpu.load(ref, layout=right, optimized=False)
                        for quad in range(QUADS):
                            for band in row_bands.get((quad, strip - quad), ()):
                                added[quad] = plgpu.mma(added[quad], band, gradients)
                    plgpu.commit_smem()  # the slot is free once all threads have read it
                    return added

                sums[chunk * QUADS : (chunk + 1) * QUADS] = blocks.pipelined_step(
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
        zeros = jnp.zeros((QUAD * QUAD, tile.channels), jnp.float32)
        zeros = plgpu.layout_cast(zeros, sums_layout)
        sums = blocks.loop(tile.cell_rows, add_row, (zeros,) * (tile.chunks * QUADS))
        for chunk in range(tile.chunks):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for quad, total in enumerate(sums[chunk * QUADS : (chunk + 1) * QUADS]):
                blocks.store(x_tile.at[quad].reshape(QUAD * QUAD, tile.channels), total)
            plgpu.commit_smem()
            for quad in range(QUADS):
                plgpu.copy_smem_to_gmem(
                    x_tile.at[quad],
                    x.at[
                        b,
                        pl.ds(row, QUAD),
                        pl.ds(column + quad * QUAD, QUAD),
                        pl.ds(first_channel + chunk * tile.channels, tile.channels),
                    ],
                )
        plgpu.wait_smem_to_gmem(0)

    def finish(x):
        return crop_channels(x, groups, problem.group_channels)

    y = pad_channels(y, groups, tile.group_channels)
    if settings.pads_maps:
        rows, columns = (UP * cells for cells in before)
        y = jnp.pad(y, ((0, 0), (rows, 0), (columns, 0), (0, 0)))
    return Work(
        grid.size * parts,
        (copied.operand(cells), y),
        jax.ShapeDtypeStruct((problem.batch, height, width, y.shape[3]), problem.dtype),
        (
            (
                plgpu.SMEM(tile.map_shape, problem.dtype),
                plgpu.SMEM(tile.out_shape, problem.dtype),
                bands.scratch,
                copied.buffer,
                *(plgpu.SMEM(each.shape, each.dtype) for each in (tile.weights,) if each),
            ),
        ),
        (plgpu.Barrier(num_arrivals=STRIPS, num_barriers=tile.slots), copied.barrier),
        run,
        finish,
    )
