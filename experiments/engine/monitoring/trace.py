"""Traces of training steps, for TensorBoard's profiler and Perfetto."""

from pathlib import Path

import jax

from experiments.engine.settings import Operation


class Trace:
    """A trace of some steps by ``jax.profiler``; it ends with the run at the latest.

    Args:
        folder: folder to which the trace is written.
        operation: operation of the run, which selects the steps.
    """

    def __init__(self, folder: Path, operation: Operation) -> None:
        self._folder = folder
        self._first = operation.profile_at
        self._last = operation.profile_at + operation.profile_steps - 1
        self._open = False

    def starts(self, number: int) -> bool:
        """Whether step ``number`` is the first to trace."""
        return number == self._first

    def ends(self, number: int) -> bool:
        """Whether step ``number`` is the last to trace."""
        return self._open and number == self._last

    def start(self) -> None:
        """Starts the trace."""
        jax.profiler.start_trace(str(self._folder))
        self._open = True

    def close(self) -> None:
        """Writes the trace, if one is open."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
