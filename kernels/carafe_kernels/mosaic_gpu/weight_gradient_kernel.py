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
    pad_columns_of_cells,
    split_parts,
)
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import cell_layout
from carafe_kernels.mosaic_gpu.problem import WORD, Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.weight_tiling import CellRuns, weight_gradient_tile
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
    before, after = geometry.halo
    up, down = geometry.up, geometry.down
    rows, columns = problem.cells
    row_blocks, column_blocks = up // tile.row_phases, up // tile.column_phases
    parts = row_blocks * column_blocks
    grid = blocks.Grid(problem.batch, rows, columns, tile.rows, tile.columns)
    layout = cell_layout(tile.rows, tile.columns)
    runs = tile.cells
    runs_per_block, *_ = tile.cell_shape
    channels_of_a_word = problem.channels_of_a_word
    words_per_pixel = groups * tile.group_channels // channels_of_a_word
    shift = before if settings.pads_maps else 0
    copies = down + tile.column_phases
    quad = TMA_ALIGNMENT // WORD  # words per load of a thread
    chunks = -(-tile.group_channels // tile.channels)

    def run(block, operands, gradient, buffers, barriers):
        (x, y, *logits), (x_tile, y_tile, cell_tile) = operands, buffers
        barrier, cell_barrier = barriers
        part = blocks.rem(block, parts)
        b, row, column = grid.position(blocks.div(block, parts))
        u = blocks.div(part, column_blocks) * tile.row_phases
        v = blocks.rem(part, column_blocks) * tile.column_phases

        def copies_of_runs(array):
            """For each run of the block, its slice of the array and its slice of the buffer."""
            first = blocks.div((u * up + v) * groups, runs.kernels_per_run)
            for index in range(runs_per_block):
                own_rows, own_columns = divmod(
                    index * runs.kernels_per_run, tile.column_phases * groups
                )
                run = first + (own_rows * up * groups + own_columns) // runs.kernels_per_run
                target = cell_tile.at[index]
                if settings.interpret:  # the interpreter copies any number of elements
                    units = pl.ds(column, tile.columns)
                else:
                    units = pl.ds(blocks.div(column, runs.aligned), tile.columns // runs.aligned)
                    target = target.reshape(tile.rows, tile.columns // runs.aligned, -1)
                yield array.at[b, pl.ds(row, tile.rows), run, units], target

        def fetch_logits():
            for memory, buffer in copies_of_runs(logits[0]):
                plgpu.copy_gmem_to_smem(
                    memory, buffer, cell_barrier, oob_mode=plgpu.OOBFillMode.ZEROS
                )

        def fetch(first_word):
            for t in range(down):
                plgpu.copy_gmem_to_smem(
                    x.at[
                        b,
                        pl.ds(row - before + shift, tile.source_shape[1]),
                        :,
                        pl.ds(column - before + shift, tile.columns + before + after),
                        pl.ds(t * words_per_pixel + first_word, tile.pitch),
                    ],
                    x_tile.at[t],
                    barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )
            for phase in range(tile.column_phases):
                plgpu.copy_gmem_to_smem(
                    y.at[
                        b,
                        pl.ds(row, tile.rows),
                        pl.ds(u, tile.row_phases),
                        pl.ds(column, tile.columns),
                        pl.ds((v + phase) * words_per_pixel + first_word, tile.pitch),
                    ],
                    y_tile.at[phase],
                    barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )

        def source(row_read, column_read, word):
            ref = x_tile.at[
                column_read.source_phase,
                pl.ds(before + row_read.cell_shift, tile.rows),
                row_read.source_phase,
                pl.ds(before + column_read.cell_shift, tile.columns),
                word,
            ]
            return blocks.load_words(ref, layout, problem.dtype)

        def output(row_phase, column_phase, word):
            ref = y_tile.at[column_phase, :, row_phase, :, word]
            return blocks.load_words(ref, layout, problem.dtype)

        phases = list(itertools.product(range(tile.row_phases), range(tile.column_phases)))
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
            zeros = plgpu.layout_cast(jnp.zeros((tile.rows, tile.columns), jnp.float32), layout)
            kernels = tile.row_phases * tile.column_phases
            sums = blocks.loop(
                chunks, functools.partial(add_chunk, group), (zeros,) * (kernels * taps)
            )
            if problem.normalizer is not None and tile.shares_memory:
                fetch_logits()
                plgpu.barrier_wait(cell_barrier)
            for kernel in range(kernels):
                store_kernel(kernel * groups + group, sums[kernel * taps : (kernel + 1) * taps])

        def store_kernel(kernel, gradients):
            run, first = blocks.split(kernel, runs.kernels_per_run)
            refs = [cell_tile.at[run, :, :, first * taps + tap] for tap in range(taps)]
            if problem.normalizer is not None:
                values = [blocks.load(ref, layout) for ref in refs]
                gradients = tap_logit_gradients(values, gradients, problem.normalizer)
            for ref, value in zip(refs, gradients, strict=True):
                blocks.store(ref, value)

        if problem.normalizer is not None and not tile.shares_memory:
            fetch_logits()
            plgpu.barrier_wait(cell_barrier)
        if groups == 1:
            add_group(0, None)
        else:
            blocks.loop(groups, add_group)
        plgpu.commit_smem()
        for memory, buffer in copies_of_runs(gradient):
            plgpu.copy_smem_to_gmem(buffer, memory)
        plgpu.wait_smem_to_gmem(0)

    def finish(gradient):
        split = problem.batch, rows, runs.runs, runs.padded_columns, runs.entries
        return gradient.reshape(split)[:, :, :, :columns]

    shape = _in_memory(runs, problem, settings)
    x = cut_rows_and_columns(as_words(pad_channels(x, groups, tile.group_channels)), down)
    y = cut_rows_and_columns(as_words(pad_channels(y, groups, tile.group_channels)), up)
    if settings.pads_maps:
        x = jnp.pad(x, ((0, 0), (before, 0), (0, 0), (before, 0), (0, 0)))
    operands = [x, y]
    if logits is not None:
        logits = logits if runs.runs == 1 else split_parts(logits, runs.runs)
        operands.append(pad_columns_of_cells(logits, runs.padded_columns).reshape(shape))
    maps = tuple(
        plgpu.SMEM(shape, problem.word_dtype) for shape in (tile.source_shape, tile.output_shape)
    )
    gradients = plgpu.SMEM(tile.cell_shape, problem.cells_dtype)
    return Work(
        grid.size * parts,
        tuple(operands),
        jax.ShapeDtypeStruct(shape, problem.cells_dtype),
        (maps, (gradients,)) if tile.shares_memory else ((*maps, gradients),),
        (plgpu.Barrier(num_arrivals=copies), plgpu.Barrier(num_arrivals=runs_per_block)),
        run,
        finish,
    )


def _in_memory(runs: CellRuns, problem: Problem, settings: Settings) -> tuple[int, ...]:
    """The shape of the array of runs that copies address."""
    rows, _ = problem.cells
    aligned = 1 if settings.interpret else runs.aligned
    units = runs.padded_columns // aligned
    return problem.batch, rows, runs.runs, units, aligned * runs.entries
