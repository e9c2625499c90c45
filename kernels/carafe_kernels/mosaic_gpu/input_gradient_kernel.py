"""The gradient of the reassembly with respect to the map ``x``.

It is gathered: each block writes pixels of its own, and there are no atomic additions. So the
result is the same to the last bit in every run.
"""

import collections
import functools
import itertools

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
from carafe_kernels.mosaic_gpu.tiling import input_gradient_tile
from carafe_kernels.mosaic_gpu.weights import Weights


def input_gradient(cells: jax.Array, y: jax.Array, problem: Problem, settings: Settings) -> Work:
    """Gathers, for each source pixel, ``weights * y`` from the outputs that read it.

    Args:
        cells: weights or logits ``[B, q, p, r, n]``.
        y: gradient with respect to the output, ``[B, H', W', C]``.
        problem: description of the arrays.
        settings: settings of the kernel.

    Returns:
        The work of the kernel. Its result is ``[B, H, W, C]``, in the dtype of ``y``.
    """
    geometry, groups = problem.geometry, problem.geometry.groups
    tile = input_gradient_tile(problem, settings.max_slots)
    _, before = geometry.halo  # outputs read cells after their own, so readers are cells before
    up, down = geometry.up, geometry.down
    rows, columns = problem.cells
    height, width = problem.size
    grid = blocks.Grid(problem.batch, rows, columns, tile.rows, tile.columns)
    layout, row_layout = channel_layout(tile.rows, tile.words, tile.vector)
    copied = CopiedCells(tile.cells, up, (before, before), settings)
    weights = Weights(problem, tile, row_layout)
    shift = (before, before) if settings.pads_maps else (0, 0)
    rows_per_pass = up // tile.passes
    # For each row of outputs, the row phases of sources that it reads and the rows of taps. With
    # several passes down is 1, and all passes read the same sources as the first.
    uses = collections.defaultdict(list)
    for s in range(down):
        for reader in geometry.readers(s):
            if reader.phase < rows_per_pass:
                uses[reader.cell_shift, reader.phase].append((s, reader.tap))
    sources = list(itertools.product(range(down), range(tile.columns), range(down)))

    def run(block, operands, x, buffers, barriers):
        (cells, y), (y_tile, x_tile, *kernels) = operands, buffers
        y_barrier, cell_barrier = barriers
        b, row, column = grid.position(block)
        first_row, first_column = row - before + shift[0], column - before + shift[1]

        def fetch(chunk, slot, part=0):
            plgpu.copy_gmem_to_smem(
                y.at[
                    b,
                    pl.ds(first_row, tile.map_shape[1]),
                    pl.ds(part * rows_per_pass, rows_per_pass),
                    pl.ds(first_column * up, tile.map_shape[3]),
                    pl.ds(chunk * tile.words, tile.words),
                ],
                y_tile.at[slot],
                y_barrier.at[slot],
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )

        def fetch_weights(part=0):
            copied.fetch(cells, kernels[0], cell_barrier, b, row, column, part)

        zeros = plgpu.layout_cast(jnp.zeros((tile.rows, tile.words), jnp.float32), layout)
        no_sums = ([zeros] * problem.channels_of_a_word,) * len(sources)

        def compute(chunk, slot):
            finish(add_rows(no_sums, chunk, slot), chunk)

        def compute_in_passes(chunk, _):
            # If the passes were unrolled, the compiler would load for all of them before it adds.
            def add_pass(part, sums):
                fetch_weights(part)
                fetch(chunk, 0, part)
                weights.wait(kernels, cell_barrier)
                plgpu.barrier_wait(y_barrier.at[0])
                sums = add_rows(sums, chunk, 0)
                plgpu.commit_smem()  # the buffers are free once all threads have read them
                return sums

            finish(blocks.loop(tile.passes, add_pass, no_sums), chunk)

        def finish(sums, chunk):
            # The barrier keeps the compiler from moving the wait to the start of the step.
            plgpu.commit_smem()
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for (s, q, t), total in zip(sources, sums, strict=True):
                blocks.store_words(x_tile.at[:, s, q * down + t, :], total, problem.dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(
                x_tile,
                x.at[
                    b,
                    pl.ds(row, tile.rows),
                    :,
                    pl.ds(column * down, tile.out_shape[2]),
                    pl.ds(chunk * tile.words, tile.words),
                ],
            )

        def add_rows(sums, chunk, slot):
            sums = dict(zip(sources, sums, strict=True))
            group = blocks.group(chunk, tile.chunks, groups)
            for (row_shift, u), row_uses in uses.items():
                add_row(sums, slot, group, row_shift, u, row_uses)
            return tuple(sums.values())

        def add_row(sums, slot, group, row_shift, u, row_uses):
            start = before + row_shift

            @functools.cache
            def output(pixel):
                ref = y_tile.at[slot, pl.ds(start, tile.rows), u, pixel]
                return blocks.load_words(ref, layout, problem.dtype)

            for (s, n), q, t in itertools.product(row_uses, range(tile.columns), range(down)):
                for reader in geometry.readers(t):
                    cell = q + before + reader.cell_shift
                    tap = n * geometry.kernel_size + reader.tap
                    index = (u, reader.phase, group, tap)
                    weight = weights.load(kernels, start, cell, index)
                    weight = blocks.broadcast_words(weight, tile.words, layout)
                    pixel = cell * up + reader.phase
                    blocks.add_products(sums, (s, q, t), weight, output(pixel))

        chunks = groups * tile.chunks
        if tile.passes == 1:
            fetch_weights()
            blocks.pipeline(
                chunks,
                tile.slots,
                fetch,
                y_barrier,
                compute,
                ready=lambda: weights.wait(kernels, cell_barrier),
            )
        else:
            blocks.loop(chunks, compute_in_passes)
        plgpu.wait_smem_to_gmem(0)

    def finish(x):
        x = join_rows(from_words(x, problem.dtype), height)
        return crop_channels(x, groups, problem.group_channels)

    y = cut_rows(as_words(pad_channels(y, groups, tile.group_channels)), up)
    if settings.pads_maps:
        y = jnp.pad(y, ((0, 0), (before, 0), (0, 0), (before * up, 0), (0, 0)))
    return Work(
        grid.size,
        (copied.operand(cells), y),
        jax.ShapeDtypeStruct((problem.batch, rows, down, width, y.shape[4]), problem.word_dtype),
        weights.memory,
        (plgpu.Barrier(num_barriers=tile.slots), copied.barrier),
        run,
        finish,
    )
