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

    Blocks of two works that stand at the same share of their maps run at about the same time, so
    that what both read comes from memory once.
    """
    groups = [group for work in works for group in work.memory]

    def body(*refs: Any) -> None:
        *arrays, memory, barriers = refs
        operands, results = list(arrays[: -len(works)]), arrays[-len(works) :]
        buffers = list(memory) if len(groups) > 1 else [memory]
        for work, result, own_barriers, (condition, index) in zip(
            works, results, barriers, _turns(works), strict=True
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


def _turns(works: tuple[Work, ...]) -> list[tuple[jax.Array | None, jax.Array]]:
    """Of each work, whether this block is one of its own, and the block's number in it.

    A block of the work that has fewer comes before so many of the other as there are for each.
    """
    block = lax.axis_index(blocks.Grid.names)
    if len(works) == 1:
        return [(None, block)]
    first, second = (work.blocks for work in works)
    fewer, ratio = min(first, second), max(first, second) // min(first, second)
    cycle, place = blocks.div(block, ratio + 1), blocks.rem(block, ratio + 1)
    in_cycles = block < fewer * (ratio + 1)
    is_fewer = in_cycles & (place == 0)
    of_more = jnp.where(in_cycles, cycle * ratio + place - 1, block - fewer)
    turns: list[tuple[jax.Array | None, jax.Array]] = [(is_fewer, cycle), (~is_fewer, of_more)]
    return turns if first <= second else turns[::-1]
