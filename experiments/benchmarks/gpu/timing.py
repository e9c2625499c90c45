"""Times of single calls on an accelerator, inputs not in its cache."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

ROTATED_BYTES = 200 * 10**6  # several times the 50 MB of an H200's second cache
MIN_SETS, MAX_SETS = 2, 16
BATCHES = 7
BATCH_SECONDS = 0.02
MAX_RESULT_BYTES = 8 * 10**9  # of the results of a batch, which are all held until it ends
COPIED_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Time:
    """Microseconds of a call: the median and the least over batches of calls."""

    median: float
    least: float


def set_count(nbytes: int) -> int:
    """How many sets of operands of ``nbytes`` to rotate, so that none is in the cache."""
    return min(max(-(-ROTATED_BYTES // nbytes), MIN_SETS), MAX_SETS)


def chained(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A program of one call on each of its arguments, a tuple of operands, one after the other.

    What is launched by one program does not wait for Python between the calls. They share no
    operands, so none can be left out, and barriers keep them from being merged.
    """

    def program(*operand_sets: tuple[Any, ...]) -> list[Any]:
        results: list[Any] = []
        for operands in operand_sets:
            if results:
                operands, _ = jax.lax.optimization_barrier((operands, results[-1]))
            results.append(function(*operands))
        return results

    return program


def time_calls(
    function: Callable[..., Any], operand_sets: Sequence[tuple[Any, ...]], calls: int = 1
) -> Time:
    """Times a function on the device.

    Batches of calls are enqueued without waiting, and the time until all results are there is
    divided by their number: the queue hides what a single dispatch costs, as long as that is less
    than what the device does meanwhile. Operands rotate, and no result is dropped in between.

    Args:
        function: of JAX arrays, or of trees of them.
        operand_sets: different operands of the same shapes.
        calls: how many are launched at a time, see :func:`chained`; for those that are shorter
            than a dispatch.
    """
    calls = min(calls, len(operand_sets))
    groups = [
        tuple(operand_sets[start : start + calls])
        for start in range(0, len(operand_sets) - calls + 1, calls)
    ]
    program = jax.jit(chained(function)).lower(*groups[0]).compile()
    for group in groups:
        results = jax.block_until_ready(program(*group))
    result_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(results))
    turns = itertools.cycle(groups)

    def batch(repeats: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready([program(*next(turns)) for _ in range(repeats)])
        return (time.perf_counter() - start) / repeats

    most = max(1, MAX_RESULT_BYTES // result_bytes)
    estimate = batch(min(4, most))
    repeats = min(max(round(BATCH_SECONDS / estimate), len(groups)), most)
    microseconds = [1e6 * batch(repeats) / calls for _ in range(BATCHES)]
    return Time(statistics.median(microseconds), min(microseconds))


def copy_bandwidth(nbytes: int = COPIED_BYTES) -> float:
    """Bytes a second, read and written, of the best of several batches of plain copies."""
    arrays = [(jnp.full(nbytes // 4, value, jnp.float32),) for value in (1.0, 2.0)]
    return 2 * nbytes / (1e-6 * time_calls(lambda array: array + 1, arrays).least)


def dispatch_microseconds() -> float:
    """What a call costs that does next to nothing: less than this cannot be measured."""
    arrays = [(jnp.full(8, value, jnp.float32),) for value in (1.0, 2.0)]
    return time_calls(lambda array: array + 1, arrays).median
