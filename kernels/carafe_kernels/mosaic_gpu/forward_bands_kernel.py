"""The forward pass on the tensor cores: products of band matrices of weights with patches.

The products have 2.6 times the arithmetic of the sum over taps, most of it with zeros, but are
estimated to take less time. A pixel that is not finite affects all targets of its patches, not only
the targets that read it.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import crop_channels, pad_channels
from carafe_kernels.mosaic_gpu.copied_cells import CopiedCells
from carafe_kernels.mosaic_gpu.forward_band_tiling import forward_band_tile
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.squares import CELLS, SIDE, TARGETS
from carafe_kernels.mosaic_gpu.target_bands import TargetBands
from carafe_kernels.mosaic_gpu.tensor_cores import K_STEP, UP


def forward(x: jax.Array, cells: jax.Array, problem: Problem, settings: Settings) -> Work:
    """Reassembles ``x`` with the reassembly kernels of its cells.

    Args:
        x: feature map ``[B, H, W, C]``.
        cells: weights or logits ``[B, q, p, r, n]``, see :mod:`carafe_kernels.mosaic_gpu.arrays`.
        problem: description of the arrays, for which
            :func:`carafe_kernels.mosaic_gpu.forward_band_tiling.forward_bands_reason` returns
            ``None``.
        settings: settings of the kernel.

    Returns:
        The work of the kernel. Its result is ``[B, H', W', C]``, in the dtype of ``x``.
    """
    geometry, groups = problem.geometry, problem.geometry.groups
    tile = forward_band_tile(problem, settings.max_slots)
    grid = blocks.Grid(problem.batch, *problem.cells, tile.rows, CELLS)
    bands = TargetBands(problem, tile)
    copied = CopiedCells(tile.cells, UP, (0, 0), settings)
    _, _, right, sums = matrix_layouts(problem.dtype)
    radius, channels = geometry.radius, tile.channels

    def run(block, operands, y, buffers, barriers):
        (x, cells), (x_tile, y_tile, copied_kernels, kernels) = operands, buffers
        x_barrier, cell_barrier = barriers
        b, row, column = grid.position(block)
        shift = radius if settings.pads_maps else 0  # so that no copy starts before the map
        pixels = x_tile.reshape(tile.slots * tile.map_rows * SIDE, channels)

        def fetch(step, slot):
            plgpu.copy_gmem_to_smem(
                x.at[
                    b,
                    pl.ds(row - radius + shift, tile.map_rows),
                    pl.ds(column - radius + shift, SIDE),
                    pl.ds(step * channels, channels),
                ],
                x_tile.at[slot],
                x_barrier.at[slot],
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )

        def compute(all_bands, step, slot):
            for square, square_bands in enumerate(all_bands):
                zeros = jnp.zeros((TARGETS, channels), jnp.float32)
                total = plgpu.layout_cast(zeros, sums)
                for k_step, parts in enumerate(square_bands):
                    first = (slot * tile.map_rows + square * CELLS) * SIDE + k_step * K_STEP
                    patch = pixels.at[pl.ds(first, K_STEP)]
                    patch = plgpu.load(patch, layout=right, optimized=False)
                    for band in parts:
                        total = plgpu.mma(total, band, patch)
                # The barrier keeps the compiler from moving the wait to the start of the step.
                plgpu.commit_smem()
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                blocks.store(y_tile.reshape(TARGETS, channels), total)
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(
                    y_tile,
                    y.at[
                        b,
                        pl.ds((row + square * CELLS) * UP, SIDE),
                        pl.ds(column * UP, SIDE),
                        pl.ds(step * channels, channels),
                    ],
                )

        def compute_group(group, _):
            squares = [bands.square_bands(kernels, group, n) for n in range(tile.squares)]

            def compute_step(step, _):
                blocks.pipelined_step(
                    group * tile.steps + step,
                    groups * tile.steps,
                    tile.slots,
                    fetch,
                    x_barrier,
                    functools.partial(compute, squares),
                )

            blocks.loop(tile.steps, compute_step)

        copied.fetch(cells, copied_kernels, cell_barrier, b, row, column)
        fetch(blocks.traced_zero(), jnp.int32(0))
        plgpu.barrier_wait(cell_barrier)
        bands.arrange(copied_kernels, kernels)
        blocks.loop(groups, compute_group)
        plgpu.wait_smem_to_gmem(0)

    def finish(y):
        return crop_channels(y, groups, problem.group_channels)

    x = pad_channels(x, groups, tile.group_channels)
    if settings.pads_maps:
        x = jnp.pad(x, ((0, 0), (radius, 0), (radius, 0), (0, 0)))
    return Work(
        grid.size,
        (x, copied.operand(cells)),
        jax.ShapeDtypeStruct((problem.batch, *problem.output_size, x.shape[3]), problem.dtype),
        (
            (
                plgpu.SMEM((tile.slots, tile.map_rows, SIDE, channels), problem.dtype),
                plgpu.SMEM((SIDE, SIDE, channels), problem.dtype),
                copied.buffer,
                bands.scratch,
            ),
        ),
        (plgpu.Barrier(num_barriers=tile.slots), copied.barrier),
        run,
        finish,
    )
