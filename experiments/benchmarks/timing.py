"""Times several functions in one run."""

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
    """Time and memory of a function.

    Attributes:
        milliseconds: median time of a call.
        page_faults: mean number of pages that the system had to map in a call.
        compile_seconds: time of tracing, lowering and compiling; ``None`` for a function that is
            not :class:`Compiled`.
        temporary_bytes: memory that a call allocates besides arguments and results; ``None`` for a
            function that is not :class:`Compiled`.
    """

    milliseconds: float
    page_faults: float
    compile_seconds: float | None = None
    temporary_bytes: int | None = None


class Compiled:
    """A JAX function, compiled for the shapes and dtypes of its arguments.

    Args:
        function: a function that ``jax.jit`` returned.
        arguments: example arguments, which determine shapes and dtypes.

    Attributes:
        run: the compiled function.
        compile_seconds: time of tracing, lowering and compiling.
        temporary_bytes: memory that a call allocates besides arguments and results.
        operand_bytes: memory of the arguments and results.
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
        sizes = analysis.argument_size_in_bytes, analysis.output_size_in_bytes
        self.operand_bytes = int(sum(sizes))


class Program(Compiled):
    """A compiled JAX function with fixed arguments.

    Args:
        function: the function to compile.
        arguments: the arguments of every call.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
        super().__init__(jax.jit(function), arguments)
        self._arguments = arguments

    def __call__(self) -> None:
        """Calls the function and waits for its results."""
        jax.block_until_ready(self.run(*self._arguments))


class Steps(Compiled):
    """A compiled function from a state to the next state; every call advances the state.

    Args:
        function: training step, a function of a state and a batch. The next state reuses the memory
            of the previous one.
        state: the first state, whose memory the first call donates.
        batch: the batch of every step.

    Attributes:
        state: the latest state.
    """

    def __init__(self, function: Callable[[Any, Any], Any], state: Any, batch: Any) -> None:
        super().__init__(jax.jit(function, donate_argnums=0), (state, batch))
        self.state, self._batch = state, batch

    def __call__(self) -> None:
        """Takes a step and waits for the next state."""
        self.state = jax.block_until_ready(self.run(self.state, self._batch))


def check_rounds(rounds: int) -> None:
    """Raises ``ConfigError`` for fewer than one turn, which has no median."""
    check(rounds >= 1, "rounds", "at least 1", rounds)


def in_turns(
    functions: Mapping[str, Callable[[], object]], rounds: int = 5, calls: int = 5
) -> dict[str, Timing]:
    """Times functions in turns, so that a busy machine slows all of them equally.

    Each turn begins with calls that are not timed, because the previous function has changed the
    allocator and the caches. A slow function has turns of a single call, which is timed. A function
    is slow if each of two calls before the turns takes more than 0.3 s: a single call can be slow
    because it is the first, or because the machine is busy.

    Args:
        functions: functions that return when their results are available, by name.
        rounds: number of turns of each function.
        calls: number of timed calls in a turn.
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
    """Calls a function once; returns seconds and page faults."""
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
