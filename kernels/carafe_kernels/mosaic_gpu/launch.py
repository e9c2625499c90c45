"""Launches of kernels that compute one contraction, or two at once."""

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
    """The work of the blocks of one contraction.

    Args:
        blocks: number of blocks.
        operands: arrays in device memory that the blocks read.
        result: shape and dtype of the array that the blocks write.
        memory: groups of buffers in shared memory. The groups overlap in memory: a block no longer
            needs a group when it writes to the next group.
        barriers: barriers for copies into the buffers.
        run: function that a block runs. Its arguments are the index of the block, references to the
            operands and to the result, the buffers of all groups in order, and the barriers.
        finish: function from the array that the blocks write to the result of the contraction.
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

    Blocks of two works for the same part of a map run at about the same time, so that data that
    both read is loaded from memory once.
    """
    groups = [group for work in works for group in work.memory]

    def assignments() -> list[tuple[jax.Array | None, jax.Array]]:
        """For each work, whether this block belongs to it, and the index of the block in it."""
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
            works, results, barriers, assignments(), strict=True
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
    """Assigns a block of a launch to one of two works.

    The blocks of the smaller work are distributed evenly among the blocks of the larger work.

    Args:
        block: index of the block in the launch.
        first: number of blocks of the first work.
        second: number of blocks of the second work.

    Returns:
        Whether the block belongs to the first work, the index of the block in the first work, and
        the index in the second work. The index in the work that it does not belong to is
        meaningless.
    """
    smaller, total = min(first, second), first + second
    if smaller * total <= MAX_INDEX:
        index = blocks.div((block + 1) * smaller - 1, total)
        is_smaller = blocks.div(index * total, smaller) == block
        other_index = block - index - 1
    else:  # the products would overflow
        ratio = total // smaller  # rounded down; the blocks that are left over come last
        index = blocks.div(block, ratio)
        is_smaller = (index < smaller) & (blocks.rem(block, ratio) == 0)
        other_index = block - jnp.minimum(index + 1, smaller)
    if first <= second:
        return is_smaller, index, other_index
    return ~is_smaller, other_index, index
