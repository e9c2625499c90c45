"""The gradient with respect to the reassembly kernels on the tensor cores.

The products of all targets of a square with all pixels of its patch are computed as a product of
matrices, and most of them are not used: 25 of 64 are, with a ``kernel_size`` of 5. The sums are in
float32. A value that is not finite affects only the gradients that use it.
"""

import itertools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import pad_channels
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.copied_runs import CopiedRuns
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.layouts import matrix_layouts, row_major_layout
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.mosaic_gpu.squares import CELLS, SIDE, SQUARES, TARGETS
from carafe_kernels.mosaic_gpu.tensor_cores import K_STEP, UP
from carafe_kernels.mosaic_gpu.weight_product_tiling import FIRST_PRODUCT, weight_product_tile
from carafe_kernels.normalizers import tap_logit_gradients

# The targets of a block, one for each thread: squares, rows of cells, row phases, columns of cells,
# column phases.
_TARGETS = {"square": SQUARES, "row": CELLS, "u": UP, "column": CELLS, "v": UP}
_CELLS = ("square", "row", "column")
_HALF = CELLS * SIDE  # pixels of half a patch


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
        problem: description of the arrays, for which
            :func:`carafe_kernels.mosaic_gpu.weight_product_tiling.weight_products_reason` returns
            ``None``.
        settings: settings of the kernel.

    Returns:
        The work of the kernel. Its result is ``[B, q, p, r, n]``, in the dtype in which weights or
        logits are copied and with any number of parts ``p``.
    """
    geometry, groups = problem.geometry, problem.geometry.groups
    tile = weight_product_tile(problem, settings.max_slots)
    copied = CopiedRuns(tile.cells, settings)
    grid = blocks.Grid(problem.batch, *problem.cells, SQUARES * CELLS, CELLS)
    left, _, right, total_layout = matrix_layouts(problem.dtype)
    targets = tuple(_TARGETS.values())
    layout = row_major_layout(targets)
    cell_layout = row_major_layout(targets, without=(2, 4))
    radius, steps = geometry.radius, groups * tile.steps
    shift = radius if settings.pads_maps else 0  # so that no copy starts before the map
    halves = list(itertools.product(range(SQUARES), range(tile.patch_halves)))
    reach = range(geometry.kernel_size)

    def store_products(total: jax.Array, products: Ref, square: int, half: int) -> None:
        """Stores the products of a square with half of its patch."""
        rows = products.at[square, pl.ds(0, TARGETS * tile.product_pitch)]
        rows = rows.reshape(TARGETS, tile.product_pitch)
        blocks.store(rows.at[:, pl.ds(FIRST_PRODUCT + half * _HALF, _HALF)], total)

    def load_products(products: Ref, n: int, m: int) -> jax.Array:
        """Loads the product of every target with the pixel of a tap, of shape :data:`_TARGETS`."""
        phases = {
            name: plgpu.broadcasted_iota(jnp.int32, targets, axis, layout=layout)
            for axis, name in enumerate(_TARGETS)
            if name in ("u", "v")
        }
        result = None
        for u, v in itertools.product(range(UP), range(UP)):
            column = FIRST_PRODUCT + v * tile.product_pitch + n * SIDE + m - u * CELLS
            rows = products.reshape(SQUARES, *tile.product_rows)
            ref = rows.at[:, :, pl.ds(u * CELLS, CELLS), column]
            value = lax.broadcast_in_dim(blocks.load(ref, cell_layout), targets, (0, 1, 3))
            value = plgpu.layout_cast(value, layout)
            is_phase = (phases["u"] == u) & (phases["v"] == v)
            result = value if result is None else lax.select(is_phase, value, result)
        assert result is not None
        return result

    def kernel_entries(cells: Ref, group: jax.Array | int, tap: int) -> Ref:
        """The entries of all targets for one group and one tap, of shape :data:`_TARGETS`."""
        over_runs, in_run = tile.cells.kernel_axes
        axes = {**over_runs, **{name: _TARGETS[name] for name in _CELLS}, **in_run}
        ref = cells.reshape(*axes.values(), geometry.taps)
        ref = ref.at[*(group if name == "group" else slice(None) for name in axes), tap]
        kept = [name for name in axes if name != "group"]
        return ref.transpose(tuple(map(kept.index, _TARGETS)))

    def run(block, operands, gradient, buffers, barriers):
        (x, y, *logits), (x_tile, y_tile, products, cells) = operands, buffers
        barrier, cell_barrier = barriers
        b, row, column = grid.position(block)
        position = b, row, column
        x_pixels, y_pixels = (
            ref.reshape(math.prod(shape[:3]), tile.pitch)
            for ref, shape in ((x_tile, tile.source_shape), (y_tile, tile.output_shape))
        )

        def fetch(step, slot):
            group, own_step = blocks.split(step, tile.steps)
            channels = pl.ds(group * tile.group_channels + own_step * tile.channels, tile.pitch)
            plgpu.copy_gmem_to_smem(
                x.at[
                    b,
                    pl.ds(row - radius + shift, tile.source_shape[1]),
                    pl.ds(column - radius + shift, SIDE),
                    channels,
                ],
                x_tile.at[slot],
                barrier.at[slot],
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )
            plgpu.copy_gmem_to_smem(
                y.at[b, pl.ds(row * UP, SQUARES * SIDE), pl.ds(column * UP, SIDE), channels],
                y_tile.at[slot],
                barrier.at[slot],
                oob_mode=plgpu.OOBFillMode.ZEROS,
            )

        def multiply(sums, slot):
            for first_channel in range(0, tile.channels, K_STEP):
                channels = pl.ds(first_channel, K_STEP)

                def load(pixels, first, count, layout, transposed, channels=channels):
                    ref = pixels.at[pl.ds(first, count), channels]
                    ref = ref.transpose((1, 0)) if transposed else ref
                    return plgpu.load(ref, layout=layout, optimized=False)

                first = slot * tile.output_shape[1] * SIDE
                outputs = [
                    load(y_pixels, first + n * TARGETS, TARGETS, left, False)
                    for n in range(SQUARES)
                ]
                first = slot * tile.source_shape[1] * SIDE
                patches = [
                    load(x_pixels, first + n * _HALF, _HALF, right, True)
                    for n in range(tile.source_shape[1] // CELLS)
                ]
                # The patch of a square starts half a patch below the patch of the square above it.
                sums = [
                    plgpu.mma(total, outputs[square], patches[square + half])
                    for total, (square, half) in zip(sums, halves, strict=True)
                ]
            plgpu.commit_smem()  # the slot is free once all threads have read it
            return tuple(sums)

        def add_group(group, _):
            zeros = plgpu.layout_cast(jnp.zeros((TARGETS, _HALF), jnp.float32), total_layout)

            def step(own_step, sums):
                index = group * tile.steps + own_step
                return blocks.pipelined_step(
                    index, steps, tile.slots, fetch, barrier, lambda _, slot: multiply(sums, slot)
                )

            sums = blocks.loop(tile.steps, step, (zeros,) * len(halves))
            for total, (square, half) in zip(sums, halves, strict=True):
                store_products(total, products, square, half)
            plgpu.commit_smem()
            gradients = [load_products(products, *tap) for tap in itertools.product(reach, reach)]
            refs = [kernel_entries(cells, group, tap) for tap in range(geometry.taps)]
            if problem.normalizer is not None:
                values = [blocks.load(ref, layout) for ref in refs]
                gradients = tap_logit_gradients(values, gradients, problem.normalizer)
            for ref, value in zip(refs, gradients, strict=True):
                blocks.store(ref, value)

        if logits:
            copied.fetch(*logits, cells, cell_barrier, *position)
        fetch(blocks.traced_zero(), jnp.int32(0))
        if logits:
            plgpu.barrier_wait(cell_barrier)
        blocks.loop(groups, add_group)
        plgpu.commit_smem()
        copied.store(gradient, cells, *position)
        plgpu.wait_smem_to_gmem(0)

    x, y = (pad_channels(each, groups, tile.group_channels) for each in (x, y))
    if settings.pads_maps:
        x = jnp.pad(x, ((0, 0), (radius, 0), (radius, 0), (0, 0)))
    return Work(
        grid.size,
        (x, y) if logits is None else (x, y, copied.operand(logits)),
        jax.ShapeDtypeStruct(copied.shape, problem.cells_dtype),
        (
            (
                plgpu.SMEM(tile.source_shape, problem.dtype),
                plgpu.SMEM(tile.output_shape, problem.dtype),
                plgpu.SMEM(tile.product_shape, jnp.float32),
                copied.buffer,
            ),
        ),
        (
            plgpu.Barrier(num_arrivals=2, num_barriers=tile.slots),
            plgpu.Barrier(num_arrivals=copied.copies),
        ),
        run,
        copied.result,
    )
