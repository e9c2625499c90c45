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
class Timing:
    """What a function took.

    Attributes:
        milliseconds: median over all calls.
        page_faults: pages that the system had to map in a call, on average.
        compile_seconds: what tracing, lowering and compiling took; ``None`` for a function that is
            not :class:`Compiled`.
        temporary_bytes: what a call allocates besides arguments and results; ``None`` for a
            function that is not :class:`Compiled`.
    """

    milliseconds: float
    page_faults: float
    compile_seconds: float | None = None
    temporary_bytes: int | None = None


class Compiled:
    """A function of JAX, compiled for the arguments with which it is called.

    Args:
        function: what ``jax.jit`` has made.
        arguments: of which shapes and dtypes matter.

    Attributes:
        run: the compiled function.
        compile_seconds: what tracing, lowering and compiling took.
        temporary_bytes: what a call allocates besides arguments and results.
    """

    def __init__(self, function: Any, arguments: Sequence[Any]) -> None:
        began = time.perf_counter()
        self.run: jax.stages.Compiled = function.lower(*arguments).compile()
        self.compile_seconds = time.perf_counter() - began
        analysis = self.run.memory_analysis()
        if analysis is None:
            raise NotImplementedError(
                f"the backend {jax.default_backend()} does not analyse memory"
            )
        self.temporary_bytes = int(analysis.temp_size_in_bytes)


class Program(Compiled):
    """A function of JAX with its arguments, compiled.

    Args:
        function: what a call computes.
        arguments: of every call.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        super().__init__(jax.jit(function), arguments)
        self._arguments = arguments

    def __call__(self) -> None:
        """Returns when the results are there."""
        jax.block_until_ready(self.run(*self._arguments))


class Steps(Compiled):
    """A function from a state to the next one, compiled; every call takes the next step.

    Args:
        function: of a state and a batch. The next state takes the memory of the state.
        state: the first one; its memory is gone after the first call.
        batch: of every step.

    Attributes:
        state: the latest.
    """

    def __init__(self, function: Callable[[Any, Any], Any], state: Any, batch: Any) -> None:
        super().__init__(jax.jit(function, donate_argnums=0), (state, batch))
        self.state, self._batch = state, batch

    def __call__(self) -> None:
        """Returns when the next state is there."""
        self.state = jax.block_until_ready(self.run(self.state, self._batch))


def check_rounds(rounds: int) -> None:
    """Raises ``ConfigError`` for less than one turn, of which there is no median."""
    check(rounds >= 1, "rounds", "at least 1", rounds)


def in_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int = 5, calls: int = 5
) -> dict[str, Timing]:
    """Times functions in turns, so that a busy machine slows all alike.

    Each turn begins with calls that do not count: a function that ran before leaves memory and
    caches in its own state, and would be timed with the next one. A function that takes more than
    0.3 s has turns of one call, which counts. One that has taken less in the first or the second of
    its calls, which come before the turns, is not one of them: a single call can be slow because
    it is the first, or because the machine is busy.

    Args:
        functions: each returns when its results are there.
        rounds: turns that each function gets.
        calls: of a turn.
    """
    slow = {name: _is_slow(function) for name, function in functions.items()}
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            for _ in range(0 if slow[name] else _WARM_CALLS):
                function()
            taken[name] += [_one_call(function) for _ in range(1 if slow[name] else calls)]
    return {name: _timing(function, taken[name]) for name, function in functions.items()}


def _is_slow(function: Callable[[], object]) -> bool:
    return all(_one_call(function)[0] > _SLOW_SECONDS for _ in range(2))


def _one_call(function: Callable[[], object]) -> tuple[float, int]:
    """The seconds and the page faults of a call."""
    faults, start = _page_faults(), time.perf_counter()
    function()
    return time.perf_counter() - start, _page_faults() - faults


def _timing(function: Callable[[], object], taken: Sequence[tuple[float, int]]) -> Timing:
    milliseconds = 1e3 * statistics.median(seconds for seconds, _ in taken)
    page_faults = statistics.mean(faults for _, faults in taken)
    if isinstance(function, Compiled):
        return Timing(milliseconds, page_faults, function.compile_seconds, function.temporary_bytes)
    return Timing(milliseconds, page_faults)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
