"""The gradient of the reassembly with respect to the weights or the logits.

Each thread computes one cell. It holds the sums of all taps of the cell in registers while it reads
one channel after the other. So there are no sums across threads, and the result is the same to the
last bit in every run.
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
    TMA_ALIGNMENT,
    as_words,
    cut_rows_and_columns,
    pad_channels,
)
from carafe_kernels.mosaic_gpu.copied_runs import CopiedRuns
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import cell_layout
from carafe_kernels.mosaic_gpu.problem import WORD, Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.weight_tiling import weight_gradient_tile
from carafe_kernels.normalizers import tap_logit_gradients


def weight_gradient(
    x: jax.Array,
    y: jax.Array,
    logits: jax.Array | None,
    problem: Problem,
    settings: Settings,
) -> Work:
    """The gradient with respect to the weights, or with respect to the logits.

    Args:
        x: feature map ``[B, H, W, C]``.
        y: gradient with respect to the output, ``[B, H', W', C]``.
        logits: logits ``[B, q, 1, r, n]`` if the problem has a normaliser, else ``None``.
        problem: description of the arrays.
        settings: settings of the kernel.

    Returns:
        The work of the kernel. Its result is ``[B, q, p, r, n]``, in the dtype in which weights or
        logits are copied and with any number of parts ``p``.
    """
    geometry, groups, taps = problem.geometry, problem.geometry.groups, problem.geometry.taps
    tile = weight_gradient_tile(problem)
    cells = tile.cells
    before, after = geometry.halo
    up, down = geometry.up, geometry.down
    rows, columns = problem.cells
    row_blocks, column_blocks = up // cells.row_phases, up // cells.column_phases
    parts = row_blocks * column_blocks
    grid = blocks.Grid(problem.batch, rows, columns, cells.rows, cells.columns)
    layout = cell_layout(cells.rows, cells.columns)
    copied = CopiedRuns(cells, settings)
    channels_of_a_word = problem.channels_of_a_word
    words_per_pixel = groups * tile.group_channels // channels_of_a_word
    shift = before if settings.pads_maps else 0
    copies = down + cells.column_phases
    quad = TMA_ALIGNMENT // WORD  # words per load of a thread
    chunks = -(-tile.group_channels // tile.channels)

    def run(block, operands, gradient, buffers, barriers):
        (x, y, *logits), (x_tile, y_tile, cell_tile) = operands, buffers
        barrier, cell_barrier = barriers
        part = blocks.rem(block, parts)
        b, row, column = grid.position(blocks.div(block, parts))
        u = blocks.div(part, column_blocks) * cells.row_phases
        v = blocks.rem(part, column_blocks) * cells.column_phases
        position = b, row, column, u, v

        def fetch(first_word):
            for t in range(down):
                plgpu.copy_gmem_to_smem(
                    x.at[
                        b,
                        pl.ds(row - before + shift, tile.source_shape[1]),
                        :,
                        pl.ds(column - before + shift, cells.columns + before + after),
                        pl.ds(t * words_per_pixel + first_word, tile.pitch),
                    ],
                    x_tile.at[t],
                    barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )
            for phase in range(cells.column_phases):
                plgpu.copy_gmem_to_smem(
                    y.at[
                        b,
                        pl.ds(row, cells.rows),
                        pl.ds(u, cells.row_phases),
                        pl.ds(column, cells.columns),
                        pl.ds((v + phase) * words_per_pixel + first_word, tile.pitch),
                    ],
                    y_tile.at[phase],
                    barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )

        def source(row_read, column_read, word):
            ref = x_tile.at[
                column_read.source_phase,
                pl.ds(before + row_read.cell_shift, cells.rows),
                row_read.source_phase,
                pl.ds(before + column_read.cell_shift, cells.columns),
                word,
            ]
            return blocks.load_words(ref, layout, problem.dtype)

        def output(row_phase, column_phase, word):
            ref = y_tile.at[column_phase, :, row_phase, :, word]
            return blocks.load_words(ref, layout, problem.dtype)

        phases = list(itertools.product(range(cells.row_phases), range(cells.column_phases)))
        reach = range(geometry.kernel_size)

        def add_channels(index, sums):
            words = [index * quad + i for i in range(quad)]

            def channels(load, *index):
                return [value for word in words for value in load(*index, word)]

            sums = dict(zip(itertools.product(phases, reach, reach), sums, strict=True))
            outputs = {phase: channels(output, *phase) for phase in phases}
            # With up > 1, all phases have the same centre, so the phases of any block read the
            # same sources as the first ones.
            reads = collections.defaultdict(list)
            for (row_phase, column_phase), n, m in sums:
                read = geometry.read(row_phase, n), geometry.read(column_phase, m)
                reads[read].append(((row_phase, column_phase), n, m))
            for read, users in reads.items():
                sources = channels(source, *read)
                for user in users:
                    for value, other in zip(sources, outputs[user[0]], strict=True):
                        sums[user] = sums[user] + value * other
            return tuple(sums.values())

        def add_chunk(group, chunk, sums):
            first = chunk * tile.channels
            fetch(blocks.div(group * tile.group_channels + first, channels_of_a_word))
            plgpu.barrier_wait(barrier)
            left = jnp.minimum(tile.channels, tile.group_channels - first)
            sums = blocks.loop(blocks.div(left, quad * channels_of_a_word), add_channels, sums)
            plgpu.commit_smem()  # the buffers are free once all threads have read them
            return sums

        def add_group(group, _):
            zeros = plgpu.layout_cast(jnp.zeros((cells.rows, cells.columns), jnp.float32), layout)
            kernels = cells.row_phases * cells.column_phases
            sums = blocks.loop(
                chunks, functools.partial(add_chunk, group), (zeros,) * (kernels * taps)
            )
            if problem.normalizer is not None and tile.shares_memory:
                copied.fetch(*logits, cell_tile, cell_barrier, *position)
                plgpu.barrier_wait(cell_barrier)
            for kernel in range(kernels):
                store_kernel(kernel * groups + group, sums[kernel * taps : (kernel + 1) * taps])

        def store_kernel(kernel, gradients):
            run, first = blocks.split(kernel, cells.layout.kernels_per_run)
            refs = [cell_tile.at[run, :, :, first * taps + tap] for tap in range(taps)]
            if problem.normalizer is not None:
                values = [blocks.load(ref, layout) for ref in refs]
                gradients = tap_logit_gradients(values, gradients, problem.normalizer)
            for ref, value in zip(refs, gradients, strict=True):
                blocks.store(ref, value)

        if problem.normalizer is not None and not tile.shares_memory:
            copied.fetch(*logits, cell_tile, cell_barrier, *position)
            plgpu.barrier_wait(cell_barrier)
        if groups == 1:
            add_group(0, None)
        else:
            blocks.loop(groups, add_group)
        plgpu.commit_smem()
        copied.store(gradient, cell_tile, *position)
        plgpu.wait_smem_to_gmem(0)

    x = cut_rows_and_columns(as_words(pad_channels(x, groups, tile.group_channels)), down)
    y = cut_rows_and_columns(as_words(pad_channels(y, groups, tile.group_channels)), up)
    if settings.pads_maps:
        x = jnp.pad(x, ((0, 0), (before, 0), (0, 0), (before, 0), (0, 0)))
    operands = [x, y]
    if logits is not None:
        operands.append(copied.operand(logits))
    maps = tuple(
        plgpu.SMEM(shape, problem.word_dtype) for shape in (tile.source_shape, tile.output_shape)
    )
    return Work(
        grid.size * parts,
        tuple(operands),
        jax.ShapeDtypeStruct(copied.shape, problem.cells_dtype),
        (maps, (copied.buffer,)) if tile.shares_memory else ((*maps, copied.buffer),),
        (plgpu.Barrier(num_arrivals=copies), plgpu.Barrier(num_arrivals=copied.copies)),
        run,
        copied.result,
    )
