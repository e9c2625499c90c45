"""Timing of compiled functions side by side, in one run."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax


@dataclasses.dataclass(frozen=True)
class Timing:
    """Result of one function.

    Attributes:
        milliseconds: median over all calls.
        temporary_bytes: what the compiled function allocates besides arguments and results.
    """

    milliseconds: float
    temporary_bytes: int


def compare(
    functions: Mapping[str, Callable[..., object]],
    arguments: Sequence[jax.Array],
    rounds: int = 5,
    calls: int = 5,
) -> dict[str, Timing]:
    """Times functions of the same arguments in turns, so that a busy machine slows all alike.

    Each turn begins with calls that do not count: a function that ran before leaves memory and
    caches in its own state, and would be timed with the next one.
    """
    compiled = {
        name: jax.jit(function).lower(*arguments).compile() for name, function in functions.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, run in compiled.items():
            for call in range(-2, calls):
                start = time.perf_counter()
                jax.block_until_ready(run(*arguments))
                if call >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return {
        name: Timing(
            1e3 * statistics.median(seconds[name]),
            _temporary_bytes(run),
        )
        for name, run in compiled.items()
    }


def _temporary_bytes(run: jax.stages.Compiled) -> int:
    analysis = run.memory_analysis()
    if analysis is None:
        raise NotImplementedError(f"the backend {jax.default_backend()} does not analyse memory")
    return int(analysis.temp_size_in_bytes)
