"""Compiles programs side by side, and times them on an accelerator, inputs not in its cache."""

import concurrent.futures
import contextvars
import dataclasses
import itertools
import re
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from carafe_kernels import mosaic_gpu

ROTATED_BYTES = 200 * 10**6  # several times the 50 MB of the second cache of an H100 or H200
MIN_SETS, MAX_SETS = 2, 16
BATCHES = 7
BATCH_SECONDS = 0.02
MAX_RESULT_BYTES = 8 * 10**9  # of the results of a batch, which are all held until it ends
COPIED_BYTES = 2**30
# A call that moves less ends before the next could be dispatched: several are launched together.
SHORT_BYTES = 90 * 10**6
CALLS_TOGETHER = 4
COMPILING_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Time:
    """Microseconds of a call: the median and the least over batches of calls."""

    median: float
    least: float


def compile_in_threads[Key: Hashable, Program](
    jobs: Mapping[Key, Callable[[], Program]],
) -> dict[Key, Program]:
    """Runs functions that compile, in threads with the settings of this one; raises what they do.

    Compilers leave Python's lock, tracing does not.
    """
    with concurrent.futures.ThreadPoolExecutor(COMPILING_THREADS) as pool:
        futures = {
            key: pool.submit(contextvars.copy_context().run, job) for key, job in jobs.items()
        }
        return {key: future.result() for key, future in futures.items()}


def set_count(nbytes: int) -> int:
    """How many sets of operands of ``nbytes`` to rotate, so that none is in the cache."""
    if mosaic_gpu.current_settings().interpret is not None:
        return 1
    return min(max(-(-ROTATED_BYTES // nbytes), MIN_SETS), MAX_SETS)


def calls_at_a_time(nbytes: int) -> int:
    """How many calls to launch together, from the bytes that one moves."""
    return CALLS_TOGETHER if nbytes < SHORT_BYTES else 1


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


def grouped(operand_sets: Sequence[tuple[Any, ...]], calls: int) -> list[tuple[Any, ...]]:
    """Sets of operands, in groups for programs of several calls."""
    calls = min(calls, len(operand_sets))
    starts = range(0, len(operand_sets) - calls + 1, calls)
    return [tuple(operand_sets[start : start + calls]) for start in starts]


def traced(function: Callable[..., Any], group: tuple[Any, ...]) -> jax.stages.Traced:
    """A program of one call on each operand set of a group, see :func:`chained`."""
    return jax.jit(chained(function)).trace(*group)


def text_of(program: jax.stages.Traced) -> str:
    """What a program does; addresses of Python's objects are no part of that."""
    return re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))


def compiled(program: jax.stages.Traced) -> Callable[..., Any]:
    """The program, ready to run."""
    return program.lower().compile()


def time_program(program: Callable[..., Any], groups: Sequence[tuple[Any, ...]]) -> Time:
    """Times a program on the device, a call of it.

    Batches of calls are enqueued without waiting, and the time until all results are there is
    divided by their number: the queue hides what a single dispatch costs, as long as that is less
    than what the device does meanwhile. Operands rotate, and no result is dropped in between.

    Args:
        program: compiled, see :func:`compiled`.
        groups: different operands of the same shapes, see :func:`grouped`.
    """
    if mosaic_gpu.current_settings().interpret is not None:  # seconds a call, which tell nothing
        start = time.perf_counter()
        jax.block_until_ready(program(*groups[0]))
        once = 1e6 * (time.perf_counter() - start) / len(groups[0])
        return Time(once, once)
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
    microseconds = [1e6 * batch(repeats) / len(groups[0]) for _ in range(BATCHES)]
    return Time(statistics.median(microseconds), min(microseconds))


def time_calls(
    function: Callable[..., Any], operand_sets: Sequence[tuple[Any, ...]], calls: int = 1
) -> Time:
    """Compiles a function and times it, ``calls`` of it at a time."""
    groups = grouped(operand_sets, calls)
    return time_program(compiled(traced(function, groups[0])), groups)


def copy_bandwidth(nbytes: int = COPIED_BYTES) -> float:
    """Bytes a second, read and written, of the best of several batches of plain copies."""
    arrays = [(jnp.full(nbytes // 4, value, jnp.float32),) for value in (1.0, 2.0)]
    return 2 * nbytes / (1e-6 * time_calls(lambda array: array + 1, arrays).least)


def dispatch_microseconds() -> float:
    """What a call costs that does next to nothing: less than this cannot be measured."""
    arrays = [(jnp.full(8, value, jnp.float32),) for value in (1.0, 2.0)]
    return time_calls(lambda array: array + 1, arrays).median
