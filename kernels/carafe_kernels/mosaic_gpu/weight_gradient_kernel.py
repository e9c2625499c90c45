"""The gradient of the reassembly by the weights, or by the logits that they were made from.

A thread owns a cell and keeps the sums of all its taps in registers while it reads channel after
channel, so nothing is summed across threads, and two runs agree to the last bit.
"""

import collections
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import (
    TMA_ALIGNMENT,
    aligned,
    as_words,
    cut_rows_and_columns,
    pad_channels,
)
from carafe_kernels.mosaic_gpu.layouts import cell_layout
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.tiling import WORD, Problem, weight_gradient_tile
from carafe_kernels.normalizers import tap_logit_gradients


def correlate(
    x: jax.Array,
    y: jax.Array,
    logits: jax.Array | None,
    problem: Problem,
    settings: Settings,
) -> jax.Array:
    """The gradient by weights, or by the logits that weights were made from.

    Args:
        x: ``[B, H, W, C]``.
        y: gradient by the output, ``[B, H', W', C]``.
        logits: ``[B, q, r, n]``, if the problem has a normaliser.
        problem: what the arrays are.
        settings: how to compile and run.

    Returns:
        ``[B, q, r, n]`` in the dtype of the weights or logits.
    """
    geometry, groups, taps = problem.geometry, problem.geometry.groups, problem.geometry.taps
    tile = weight_gradient_tile(problem)
    before, after = geometry.halo
    up, down = geometry.up, geometry.down
    rows, columns = problem.cells
    blocks_of_rows, blocks_of_columns = up // tile.row_phases, up // tile.column_phases
    parts = blocks_of_rows * blocks_of_columns
    grid = blocks.Grid(problem.batch, rows, columns, tile.rows, tile.columns)
    layout = cell_layout(tile.rows, tile.columns)
    pitch = tile.pitch(problem.dtype)
    source_rows = tile.source_rows(geometry, problem.dtype)
    channels_of_a_word = WORD // problem.dtype.itemsize
    words_of_a_map = groups * tile.group_channels // channels_of_a_word
    word_dtype = problem.dtype if channels_of_a_word == 1 else np.dtype(np.uint32)
    kernels = tile.row_phases * tile.column_phases
    box = tile.cells.box
    # Blocks of one cell store their parts apart: TMA has no places between multiples of 16 bytes.
    stride = tile.cells.boxes * box
    shift = before if settings.pads_maps else 0
    copies = down + tile.column_phases
    quad = TMA_ALIGNMENT // WORD  # words that a thread reads at once
    chunks = -(-tile.group_channels // tile.channels)

    def carafe_weight_gradient(*refs):
        if problem.normalizer is None:
            x, y, gradient, x_tile, y_tile, cell_tile, barrier, cell_barrier = refs
        else:
            x, y, logits, gradient, x_tile, y_tile, cell_tile, barrier, cell_barrier = refs
        block = lax.axis_index(grid.names)
        part = blocks.rem(block, parts)
        b, row, column = grid.position(blocks.div(block, parts))
        u = blocks.div(part, blocks_of_columns) * tile.row_phases
        v = blocks.rem(part, blocks_of_columns) * tile.column_phases
        first_entry = (u * up + v) * geometry.weight_channels

        def cells_of(array, first):
            return array.at[
                b, pl.ds(row, tile.rows), pl.ds(column, tile.columns), pl.ds(first, box)
            ]

        if problem.normalizer is not None:
            for index in range(tile.cells.boxes):
                plgpu.copy_gmem_to_smem(
                    cells_of(logits, first_entry + index * box),
                    cell_tile.at[index],
                    cell_barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )

        def fetch(first_word):
            for t in range(down):
                plgpu.copy_gmem_to_smem(
                    x.at[
                        b,
                        pl.ds(row - before + shift, source_rows),
                        :,
                        pl.ds(column - before + shift, tile.columns + before + after),
                        pl.ds(t * words_of_a_map + first_word, pitch),
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
                        pl.ds((v + phase) * words_of_a_map + first_word, pitch),
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
            return blocks.load_word(ref, layout, problem.dtype)

        def output(row_phase, column_phase, word):
            ref = y_tile.at[column_phase, :, row_phase, :, word]
            return blocks.load_word(ref, layout, problem.dtype)

        phases = list(itertools.product(range(tile.row_phases), range(tile.column_phases)))
        reach = range(geometry.kernel_size)

        def add_channels(index, sums):
            words = [index * quad + i for i in range(quad)]

            def channels(values, *place):
                return [value for word in words for value in values(*place, word)]

            sums = dict(zip(itertools.product(phases, reach, reach), sums, strict=True))
            outputs = {phase: channels(output, *phase) for phase in phases}
            # Blocks of up > 1 hold phases of one centre each, so a phase may stand for any other.
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
            plgpu.commit_smem()  # all threads have read: the tiles are free
            return sums

        def add_group(group, _):
            zeros = plgpu.layout_cast(jnp.zeros((tile.rows, tile.columns), jnp.float32), layout)
            sums = blocks.loop(
                chunks, functools.partial(add_chunk, group), (zeros,) * (kernels * taps)
            )
            for kernel in range(kernels):
                store_kernel(kernel * groups + group, sums[kernel * taps : (kernel + 1) * taps])

        def store_kernel(kernel, gradients):
            entries = [kernel * taps + tap for tap in range(taps)]
            places = [blocks.split(entry, tile.cells) for entry in entries]
            if problem.normalizer is not None:
                values = [
                    blocks.load(cell_tile.at[index, :, :, place], layout) for index, place in places
                ]
                gradients = tap_logit_gradients(values, gradients, problem.normalizer)
            for (index, place), value in zip(places, gradients, strict=True):
                blocks.store(cell_tile.at[index, :, :, place], value)

        if problem.normalizer is not None:
            plgpu.barrier_wait(cell_barrier)
        if groups == 1:
            add_group(0, None)
        else:
            blocks.loop(groups, add_group)
        plgpu.commit_smem()
        for index in range(tile.cells.boxes):
            plgpu.copy_smem_to_gmem(
                cell_tile.at[index], cells_of(gradient, part * stride + index * box)
            )
        plgpu.wait_smem_to_gmem(0)

    entries = aligned(geometry.logit_channels, problem.cells_dtype)
    kernel = plgpu.kernel(
        carafe_weight_gradient,
        out_type=jax.ShapeDtypeStruct(
            (problem.batch, rows, columns, entries if parts == 1 else parts * stride),
            problem.cells_dtype,
        ),
        grid=(grid.shape[0] * parts,),
        grid_names=grid.names,
        scratch_types=(
            plgpu.SMEM(
                (
                    down,
                    source_rows,
                    down,
                    tile.columns + before + after,
                    pitch,
                ),
                word_dtype,
            ),
            plgpu.SMEM(
                (tile.column_phases, tile.rows, tile.row_phases, tile.columns, pitch),
                word_dtype,
            ),
            plgpu.SMEM((tile.cells.boxes, tile.rows, tile.columns, box), problem.cells_dtype),
            plgpu.Barrier(num_arrivals=copies),
            plgpu.Barrier(num_arrivals=tile.cells.boxes),
        ),
        compiler_params=settings.compiler_params,
        interpret=settings.interpret or False,
    )
    x = cut_rows_and_columns(as_words(pad_channels(x, groups, tile.group_channels)), down)
    y = cut_rows_and_columns(as_words(pad_channels(y, groups, tile.group_channels)), up)
    if settings.pads_maps:
        x = jnp.pad(x, ((0, 0), (before, 0), (0, 0), (before, 0), (0, 0)))
    gradient = kernel(x, y) if problem.normalizer is None else kernel(x, y, logits)
    if parts > 1 and stride > tile.cells.entries:
        split = gradient.reshape(problem.batch, rows, columns, parts, stride)
        split = split[..., : tile.cells.entries]
        gradient = split.reshape(problem.batch, rows, columns, geometry.logit_channels)
    return gradient
