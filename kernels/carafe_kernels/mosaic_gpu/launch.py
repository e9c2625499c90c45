"""Launches kernels: one contraction, or two beside each other."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu import blocks
from carafe_kernels.mosaic_gpu.arrays import MAX_INDEX
from carafe_kernels.mosaic_gpu.blocks import Ref
from carafe_kernels.mosaic_gpu.settings import Settings


@dataclasses.dataclass(frozen=True)
class Work:
    """What the blocks of one contraction do.

    Args:
        blocks: their number.
        operands: arrays in device memory.
        result: shape and dtype of the array that the blocks write.
        memory: groups of buffers in shared memory. The groups overlap: a block has done with one
            before it writes to the next.
        barriers: for copies into the buffers.
        run: what a block does, from its number, the references of the operands and the result,
            the buffers of all groups one after the other, and the barriers.
        finish: makes the result of the contraction from the array.
    """

    blocks: int
    operands: tuple[jax.Array, ...]
    result: jax.ShapeDtypeStruct
    memory: tuple[tuple[Any, ...], ...]
    barriers: tuple[Any, ...]
    run: Callable[[jax.Array, list[Ref], Ref, list[Ref], list[Ref]], None]
    finish: Callable[[jax.Array], jax.Array]


def launch(name: str, settings: Settings, *works: Work) -> tuple[jax.Array, ...]:
    """Runs one or two works in one kernel, and returns their results.

    Blocks of two works at the same place of a map run at about the same time, so that what both
    read comes from memory once.
    """
    groups = [group for work in works for group in work.memory]

    def turns() -> list[tuple[jax.Array | None, jax.Array]]:
        """For each work, whether this block is one of its own, and the block's number in it."""
        block = lax.axis_index(blocks.Grid.names)
        if len(works) == 1:
            return [(None, block)]
        is_first, *indices = block_order(block, *(work.blocks for work in works))
        return list(zip((is_first, ~is_first), indices, strict=True))

    def body(*refs: Any) -> None:
        *arrays, memory, barriers = refs
        operands, results = list(arrays[: -len(works)]), arrays[-len(works) :]
        buffers = list(memory) if len(groups) > 1 else [memory]
        for work, result, own_barriers, (condition, index) in zip(
            works, results, barriers, turns(), strict=True
        ):
            own_operands = [operands.pop(0) for _ in work.operands]
            own_buffers = [buffer for _ in work.memory for buffer in buffers.pop(0)]
            arguments = index, own_operands, result, own_buffers, list(own_barriers)

            def run(work: Work = work, arguments: Any = arguments) -> None:
                work.run(*arguments)

            if condition is None:
                run()
            else:
                pl.when(condition)(run)

    body.__name__ = name
    kernel = plgpu.kernel(
        body,
        out_type=[work.result for work in works],
        grid=(sum(work.blocks for work in works),),
        grid_names=blocks.Grid.names,
        scratch_types=(
            plgpu.RefUnion(*groups) if len(groups) > 1 else groups[0],
            tuple(work.barriers for work in works),
        ),
        compiler_params=settings.compiler_params,
        interpret=settings.interpret or False,
    )
    arrays = kernel(*(operand for work in works for operand in work.operands))
    return tuple(work.finish(array) for work, array in zip(works, arrays, strict=True))


def block_order(
    block: jax.Array, first: int, second: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The order of the blocks of two works, the first with ``first`` blocks.

    The blocks of the work that has fewer are spread evenly among those of the other.

    Returns:
        For a block of the launch: whether it belongs to the first work, and the number of the
        block in the first work and in the second, of which the one that it belongs to counts.
    """
    fewer, total = min(first, second), first + second
    if fewer * total <= MAX_INDEX:
        index = blocks.div((block + 1) * fewer - 1, total)
        is_fewer = blocks.div(index * total, fewer) == block
        of_more = block - index - 1
    else:  # the products overflow: what the rounded ratio leaves comes last
        ratio = total // fewer
        index = blocks.div(block, ratio)
        is_fewer = (index < fewer) & (blocks.rem(block, ratio) == 0)
        of_more = block - jnp.minimum(index + 1, fewer)
    if first <= second:
        return is_fewer, index, of_more
    return ~is_fewer, of_more, index
