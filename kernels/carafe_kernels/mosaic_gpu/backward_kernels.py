"""The gradients of the reassembly by the map and by the kernels.

Both gather: a block owns what it writes, nothing is added atomically, and two runs agree to the
last bit.
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
    crop_channels,
    cut_rows,
    cut_rows_and_columns,
    join_rows,
    pad_channels,
)
from carafe_kernels.mosaic_gpu.tiling import (
    Problem,
    cell_layout,
    channel_layout,
    input_gradient_tile,
    weight_gradient_tile,
)
from carafe_kernels.normalizers import tap_logit_gradients


def input_gradient(
    cells: jax.Array, y: jax.Array, problem: Problem, interpret: plgpu.InterpretGPUParams | None
) -> jax.Array:
    """Gathers, for each source pixel, ``weights * y`` from the outputs that read it.

    Args:
        cells: ``[B, q, r, n]``, weights or logits.
        y: gradient by the output, ``[B, H', W', C]``.
        problem: what the arrays are.
        interpret: how to run on a CPU; ``None`` compiles for the GPU.

    Returns:
        ``[B, H, W, C]`` in the dtype of ``y``.
    """
    geometry, groups = problem.geometry, problem.geometry.groups
    tile = input_gradient_tile(problem)
    after, before = geometry.halo  # a source is read by the cells that a cell does not reach
    halo = before + after
    up, down = geometry.up, geometry.down
    rows, columns = problem.cells
    height, width = problem.size
    grid = blocks.Grid(problem.batch, rows, columns, tile.rows, tile.columns)
    layout, row_layout = channel_layout(tile)
    weights = blocks.Weights(problem, tile, row_layout)
    shift = (before, before) if interpret else (0, 0)
    rows_of_a_pass = up // tile.passes
    # What one row of outputs is for: every row phase of sources, and the tap that reads it.
    uses = collections.defaultdict(list)
    for s in range(down):
        for reader in geometry.readers(s):
            uses[reader.cell_shift, reader.phase].append((s, reader.tap))

    def carafe_input_gradient(cells, y, x, y_tile, x_tile, y_barrier, cell_scratch):
        b, row, column = grid.position()
        first_row, first_column = row - before + shift[0], column - before + shift[1]

        def fetch(chunk, slot, part=0):
            plgpu.copy_gmem_to_smem(
                y.at[
                    b,
                    pl.ds(first_row, tile.rows + halo),
                    pl.ds(part * rows_of_a_pass, rows_of_a_pass),
                    pl.ds(first_column * up, (tile.columns + halo) * up),
                    pl.ds(chunk * tile.channels, tile.channels),
                ],
                y_tile.at[slot],
                y_barrier.at[slot],
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )

        def fetch_weights(part=0):
            weights.fetch(cells, cell_scratch, b, first_row, first_column, part)

        def compute(chunk, slot):
            sums = {}
            add_rows(sums, chunk, slot, 0)
            finish(sums, chunk)

        def compute_in_passes(chunk, _):
            sums = {}
            for part in range(tile.passes):
                fetch_weights(part)
                fetch(chunk, 0, part)
                weights.wait(cell_scratch)
                plgpu.barrier_wait(y_barrier.at[0])
                add_rows(sums, chunk, 0, part)
                plgpu.commit_smem()  # all threads have read: the tiles are free
            finish(sums, chunk)

        def finish(sums, chunk):
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)
            for s, q, t in itertools.product(range(down), range(tile.columns), range(down)):
                shape = (tile.rows, tile.channels)
                total = sums.get((s, q, t), jnp.zeros((), jnp.float32))
                total = lax.broadcast_in_dim(total, shape, tuple(range(total.ndim)))
                blocks.store(x_tile.at[:, s, q * down + t, :], total)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(
                x_tile,
                x.at[
                    b,
                    pl.ds(row, tile.rows),
                    :,
                    pl.ds(column * down, tile.columns * down),
                    pl.ds(chunk * tile.channels, tile.channels),
                ],
            )

        def add_rows(sums, chunk, slot, part):
            group = blocks.group(chunk, tile, groups)
            for (row_shift, u), row_uses in uses.items():
                if u // rows_of_a_pass == part:
                    add_row(sums, slot, group, row_shift, u % rows_of_a_pass, row_uses)

        def add_row(sums, slot, group, row_shift, u, row_uses):
            start = before + row_shift

            @functools.cache
            def output(place):
                ref = y_tile.at[slot, pl.ds(start, tile.rows), u, place]
                return blocks.load(ref, layout)

            for (s, n), q, t in itertools.product(row_uses, range(tile.columns), range(down)):
                for reader in geometry.readers(t):
                    cell = q + before + reader.cell_shift
                    tap = n * geometry.kernel_size + reader.tap
                    index = (u, reader.phase, group, tap)
                    weight = weights.load(cell_scratch, start, cell, index)
                    term = blocks.spread(weight, tile, layout) * output(cell * up + reader.phase)
                    sums[s, q, t] = sums[s, q, t] + term if (s, q, t) in sums else term

        chunks = groups * tile.chunks
        if tile.passes == 1:
            fetch_weights()
            blocks.pipeline(
                chunks,
                tile.slots,
                fetch,
                y_barrier,
                compute,
                ready=lambda: weights.wait(cell_scratch),
            )
        else:
            lax.fori_loop(0, chunks, compute_in_passes, None)
        plgpu.wait_smem_to_gmem(0)

    padded = groups * tile.group_channels
    kernel = plgpu.kernel(
        carafe_input_gradient,
        out_type=jax.ShapeDtypeStruct((problem.batch, rows, down, width, padded), problem.dtype),
        grid=grid.shape,
        grid_names=grid.names,
        scratch_types=(
            plgpu.SMEM(
                (
                    tile.slots,
                    tile.rows + halo,
                    rows_of_a_pass,
                    (tile.columns + halo) * up,
                    tile.channels,
                ),
                problem.dtype,
            ),
            plgpu.SMEM((tile.rows, down, tile.columns * down, tile.channels), problem.dtype),
            plgpu.Barrier(num_barriers=tile.slots),
            weights.scratch,
        ),
        compiler_params=blocks.COMPILER_PARAMS,
        interpret=interpret or False,
    )
    y = cut_rows(pad_channels(y, groups, tile.group_channels), up)
    if interpret:
        y = jnp.pad(y, ((0, 0), (before, 0), (0, 0), (before * up, 0), (0, 0)))
        cells = jnp.pad(cells, ((0, 0), (before, 0), (before, 0), (0, 0)))
    x = join_rows(kernel(cells, y), height)
    return crop_channels(x, groups, problem.group_channels)


def cells_gradient(
    x: jax.Array,
    y: jax.Array,
    logits: jax.Array | None,
    problem: Problem,
    interpret: plgpu.InterpretGPUParams | None,
) -> jax.Array:
    """The gradient by weights, or by the logits that weights were made from.

    Args:
        x: ``[B, H, W, C]``.
        y: gradient by the output, ``[B, H', W', C]``.
        logits: ``[B, q, r, n]``, if the problem has a normaliser.
        problem: what the arrays are.
        interpret: how to run on a CPU; ``None`` compiles for the GPU.

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
    padded = groups * tile.group_channels
    kernels = tile.row_phases * tile.column_phases
    box = tile.cells.box
    # Blocks of one cell store their parts apart: TMA has no places between multiples of 16 bytes.
    stride = tile.cells.boxes * box
    shift = before if interpret else 0
    copies = down + tile.column_phases
    quad = TMA_ALIGNMENT // problem.dtype.itemsize  # channels that a thread reads at once
    chunks = -(-tile.group_channels // tile.channels)

    def carafe_cells_gradient(*refs):
        if problem.normalizer is None:
            x, y, gradient, x_tile, y_tile, cell_tile, barrier, cell_barrier = refs
        else:
            x, y, logits, gradient, x_tile, y_tile, cell_tile, barrier, cell_barrier = refs
        block = lax.axis_index(grid.names)
        part = lax.rem(block, np.int32(parts))
        b, row, column = grid.position(lax.div(block, np.int32(parts)))
        u = lax.div(part, np.int32(blocks_of_columns)) * tile.row_phases
        v = lax.rem(part, np.int32(blocks_of_columns)) * tile.column_phases
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

        def fetch(first_channel):
            for t in range(down):
                plgpu.copy_gmem_to_smem(
                    x.at[
                        b,
                        pl.ds(row - before + shift, source_rows),
                        :,
                        pl.ds(column - before + shift, tile.columns + before + after),
                        pl.ds(t * padded + first_channel, pitch),
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
                        pl.ds((v + phase) * padded + first_channel, pitch),
                    ],
                    y_tile.at[phase],
                    barrier,
                    oob_mode=plgpu.OOBFillMode.ZEROS,
                )

        def source(row_read, column_read, channel):
            ref = x_tile.at[
                column_read.source_phase,
                pl.ds(before + row_read.cell_shift, tile.rows),
                row_read.source_phase,
                pl.ds(before + column_read.cell_shift, tile.columns),
                channel,
            ]
            return blocks.load(ref, layout)

        def output(row_phase, column_phase, channel):
            ref = y_tile.at[column_phase, :, row_phase, :, channel]
            return blocks.load(ref, layout)

        phases = list(itertools.product(range(tile.row_phases), range(tile.column_phases)))
        reach = range(geometry.kernel_size)

        def add_channels(index, sums):
            channels = [index * quad + i for i in range(quad)]
            sums = dict(zip(itertools.product(phases, reach, reach), sums, strict=True))
            outputs = {phase: [output(*phase, channel) for channel in channels] for phase in phases}
            # Blocks of up > 1 hold phases of one centre each, so a phase may stand for any other.
            reads = collections.defaultdict(list)
            for (row_phase, column_phase), n, m in sums:
                read = geometry.read(row_phase, n), geometry.read(column_phase, m)
                reads[read].append(((row_phase, column_phase), n, m))
            for read, users in reads.items():
                sources = [source(*read, channel) for channel in channels]
                for user in users:
                    for value, other in zip(sources, outputs[user[0]], strict=True):
                        sums[user] = sums[user] + value * other
            return tuple(sums.values())

        def add_chunk(group, chunk, sums):
            first = chunk * tile.channels
            fetch(group * tile.group_channels + first)
            plgpu.barrier_wait(barrier)
            left = jnp.minimum(tile.channels, tile.group_channels - first)
            sums = lax.fori_loop(0, lax.div(left, np.int32(quad)), add_channels, sums)
            plgpu.commit_smem()  # all threads have read: the tiles are free
            return sums

        def add_group(group, _):
            zeros = plgpu.layout_cast(jnp.zeros((tile.rows, tile.columns), jnp.float32), layout)
            sums = lax.fori_loop(
                0, chunks, functools.partial(add_chunk, group), (zeros,) * (kernels * taps)
            )
            for kernel in range(kernels):
                store_kernel(kernel * groups + group, sums[kernel * taps : (kernel + 1) * taps])

        def store_kernel(kernel, gradients):
            entries = [kernel * taps + tap for tap in range(taps)]
            places = [blocks.split(entry, box) for entry in entries]
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
            lax.fori_loop(0, groups, add_group, None)
        plgpu.commit_smem()
        for index in range(tile.cells.boxes):
            plgpu.copy_smem_to_gmem(
                cell_tile.at[index], cells_of(gradient, part * stride + index * box)
            )
        plgpu.wait_smem_to_gmem(0)

    entries = aligned(geometry.logit_channels, problem.cells_dtype)
    kernel = plgpu.kernel(
        carafe_cells_gradient,
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
                problem.dtype,
            ),
            plgpu.SMEM(
                (tile.column_phases, tile.rows, tile.row_phases, tile.columns, pitch),
                problem.dtype,
            ),
            plgpu.SMEM((tile.cells.boxes, tile.rows, tile.columns, box), problem.cells_dtype),
            plgpu.Barrier(num_arrivals=copies),
            plgpu.Barrier(num_arrivals=tile.cells.boxes),
        ),
        compiler_params=blocks.COMPILER_PARAMS,
        interpret=interpret or False,
    )
    x = cut_rows_and_columns(pad_channels(x, groups, tile.group_channels), down)
    y = cut_rows_and_columns(pad_channels(y, groups, tile.group_channels), up)
    if interpret:
        x = jnp.pad(x, ((0, 0), (before, 0), (0, 0), (before, 0), (0, 0)))
    gradient = kernel(x, y) if problem.normalizer is None else kernel(x, y, logits)
    if parts > 1 and stride > tile.cells.entries:
        split = gradient.reshape(problem.batch, rows, columns, parts, stride)
        split = split[..., : tile.cells.entries]
        gradient = split.reshape(problem.batch, rows, columns, geometry.logit_channels)
    return gradient
