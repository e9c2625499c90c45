"""Timing of functions side by side, in one run."""

import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.engine.config import check

_WARM_CALLS = 2
_SLOW_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Calls:
    """What the calls of a function took.

    Attributes:
        milliseconds: median over all calls.
        page_faults: pages that the system had to map in a call, on average.
    """

    milliseconds: float
    page_faults: float


@dataclasses.dataclass(frozen=True)
class Timing:
    """Result of one function of JAX.

    Attributes:
        milliseconds: median over all calls.
        temporary_bytes: what the compiled function allocates besides arguments and results.
    """

    milliseconds: float
    temporary_bytes: int


class Program:
    """A function of JAX, compiled for the arguments with which it is called.

    Args:
        function: what a call computes.
        arguments: of every call.

    Attributes:
        compile_seconds: what tracing, lowering and compiling took.
        temporary_bytes: what a call allocates besides arguments and results.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._compiled, self.compile_seconds = _compiled(jax.jit(function), arguments)
        self._arguments = arguments
        self.temporary_bytes = _temporary_bytes(self._compiled)

    def __call__(self) -> None:
        """Returns when the results are there."""
        jax.block_until_ready(self._compiled(*self._arguments))


class Steps:
    """A function from a state to the next one, compiled; every call takes the next step.

    Args:
        function: of a state and a batch. The next state takes the memory of the state.
        state: the first one; its memory is gone after the first call.
        batch: of every step.

    Attributes:
        compile_seconds: what tracing, lowering and compiling took.
        temporary_bytes: what a step allocates besides its arguments and results.
        state: the latest.
    """

    def __init__(self, function: Callable[[Any, Any], Any], state: Any, batch: Any) -> None:
        jitted = jax.jit(function, donate_argnums=0)
        self._compiled, self.compile_seconds = _compiled(jitted, (state, batch))
        self.state, self._batch = state, batch
        self.temporary_bytes = _temporary_bytes(self._compiled)

    def __call__(self) -> None:
        """Returns when the next state is there."""
        self.state = jax.block_until_ready(self._compiled(self.state, self._batch))


def _compiled(jitted: Any, arguments: Sequence[Any]) -> tuple[jax.stages.Compiled, float]:
    """What is compiled for arguments, and the seconds that this took."""
    began = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    return compiled, time.perf_counter() - began


def _temporary_bytes(compiled: jax.stages.Compiled) -> int:
    analysis = compiled.memory_analysis()
    if analysis is None:
        raise NotImplementedError(f"the backend {jax.default_backend()} does not analyse memory")
    return int(analysis.temp_size_in_bytes)


def check_rounds(rounds: int) -> None:
    """Raises ``ConfigError`` for less than one turn, of which there is no median."""
    check(rounds >= 1, "rounds", "at least 1", rounds)


def in_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int = 5, calls: int = 5
) -> dict[str, Calls]:
    """Times functions in turns, so that a busy machine slows all alike.

    Each turn begins with calls that do not count: a function that ran before leaves memory and
    caches in its own state, and would be timed with the next one. A call of more than 0.3 s counts
    from the first one on, and is the only one of its turn.

    Args:
        functions: each returns when its results are there; all are called once before the turns.
        rounds: turns that each function gets.
        calls: of a turn.
    """
    for function in functions.values():
        function()
    times: dict[str, list[tuple[float, int]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            for call in range(-_WARM_CALLS, calls):
                faults, start = _page_faults(), time.perf_counter()
                function()
                seconds = time.perf_counter() - start
                slow = seconds > _SLOW_SECONDS
                if call >= 0 or slow:
                    times[name].append((seconds, _page_faults() - faults))
                if slow:
                    break
    return {
        name: Calls(
            1e3 * statistics.median(seconds for seconds, _ in taken),
            statistics.mean(faults for _, faults in taken),
        )
        for name, taken in times.items()
    }


def compare(
    functions: Mapping[str, Callable[..., object]],
    arguments: Sequence[jax.Array],
    rounds: int = 5,
    calls: int = 5,
) -> dict[str, Timing]:
    """Compiles functions of the same arguments and times them; see :func:`in_turns`."""
    programs = {name: Program(function, arguments) for name, function in functions.items()}
    times = in_turns(programs, rounds, calls)
    return {
        name: Timing(times[name].milliseconds, program.temporary_bytes)
        for name, program in programs.items()
    }


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
