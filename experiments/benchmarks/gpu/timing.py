"""Compiles programs in threads, and times them on an accelerator with a cold cache."""

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

ROTATED_BYTES = 200 * 10**6  # several times the 50 MB of the L2 cache of an H100 or H200
MIN_SETS, MAX_SETS = 2, 16
BATCHES = 7
BATCH_SECONDS = 0.02
# Batches that run before those that count. The first times of a process were too long by half: the
# clock of an idle GPU takes a while to rise.
WARM_UP_BATCHES = 10
MAX_RESULT_BYTES = 8 * 10**9  # bytes of the results of a batch, which are kept until it ends
COPIED_BYTES = 2**30
# A call that moves less ends before the next is dispatched, so several are launched together.
SHORT_BYTES = 90 * 10**6
CALLS_TOGETHER = 4
COMPILING_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Time:
    """Microseconds of a call: median and minimum over batches of calls."""

    median: float
    least: float


def compile_in_threads[Key: Hashable, Program](
    jobs: Mapping[Key, Callable[[], Program]],
) -> dict[Key, Program]:
    """Runs functions in threads, with the settings of this thread; raises their exceptions.

    Compilers release Python's lock; tracing does not.
    """
    with concurrent.futures.ThreadPoolExecutor(COMPILING_THREADS) as pool:
        futures = {
            key: pool.submit(contextvars.copy_context().run, job) for key, job in jobs.items()
        }
        return {key: future.result() for key, future in futures.items()}


def set_count(nbytes: int) -> int:
    """Number of sets of operands of ``nbytes`` to rotate, so that none is in the cache."""
    if mosaic_gpu.current_settings().interpret is not None:
        return 1
    return min(max(-(-ROTATED_BYTES // nbytes), MIN_SETS), MAX_SETS)


def calls_at_a_time(nbytes: int) -> int:
    """Number of calls to launch together, if a call moves ``nbytes``."""
    return CALLS_TOGETHER if nbytes < SHORT_BYTES else 1


def chained(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """A program that calls a function on each of its arguments, which are tuples of operands.

    The calls of one program do not wait for Python. They have different operands, so XLA cannot
    remove any of them, and barriers prevent XLA from merging them.
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
    """Groups sets of operands for programs of several calls."""
    calls = min(calls, len(operand_sets))
    starts = range(0, len(operand_sets) - calls + 1, calls)
    return [tuple(operand_sets[start : start + calls]) for start in starts]


def traced(function: Callable[..., Any], group: tuple[Any, ...]) -> jax.stages.Traced:
    """Traces a program that calls a function on each set of a group, see :func:`chained`."""
    return jax.jit(chained(function)).trace(*group)


def text_of(program: jax.stages.Traced) -> str:
    """The text of a program, without addresses of Python objects."""
    return re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))


def compiled(program: jax.stages.Traced) -> Callable[..., Any]:
    """Compiles a traced program."""
    return program.lower().compile()


def time_program(program: Callable[..., Any], groups: Sequence[tuple[Any, ...]]) -> Time:
    """Times a call of a program on the device.

    A batch of calls is enqueued without waiting. The time until all results are available is
    divided by the number of calls. The queue hides the time of dispatch, as long as it is shorter
    than the time on the device. Operands rotate, and no result is freed before the batch ends.

    Args:
        program: a compiled program, see :func:`compiled`.
        groups: groups of operands with the same shapes, see :func:`grouped`.
    """
    if (
        mosaic_gpu.current_settings().interpret is not None
    ):  # a call takes seconds, and its time means nothing
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
    for _ in range(WARM_UP_BATCHES):
        batch(repeats)
    microseconds = [1e6 * batch(repeats) / len(groups[0]) for _ in range(BATCHES)]
    return Time(statistics.median(microseconds), min(microseconds))


def time_calls(
    function: Callable[..., Any], operand_sets: Sequence[tuple[Any, ...]], calls: int = 1
) -> Time:
    """Compiles a function and times a call, launching ``calls`` calls together."""
    groups = grouped(operand_sets, calls)
    return time_program(compiled(traced(function, groups[0])), groups)


def copy_bandwidth(nbytes: int = COPIED_BYTES) -> float:
    """Bytes per second that a copy reads and writes, in the best of several batches."""
    arrays = [(jnp.full(nbytes // 4, value, jnp.float32),) for value in (1.0, 2.0)]
    return 2 * nbytes / (1e-6 * time_calls(lambda array: array + 1, arrays).least)


def dispatch_microseconds() -> float:
    """Time of a call that does almost nothing: shorter times cannot be measured."""
    arrays = [(jnp.full(8, value, jnp.float32),) for value in (1.0, 2.0)]
    return time_calls(lambda array: array + 1, arrays).median
