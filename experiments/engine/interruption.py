"""SIGTERM: a cluster's notice that a process will be killed soon."""

import signal
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils


class Interrupted(Exception):  # noqa: N818 (nothing went wrong)
    """The run was asked to stop, and has saved what is needed to go on."""


class Interruption:
    """Notes SIGTERM while it is entered, on behalf of all processes."""

    def __init__(self) -> None:
        self._noted = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        # Among several processes JAX' own handler tells the others, and must stay.
        if jax.process_count() == 1:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._previous)

    def requested(self, step: int) -> bool:
        """Whether to stop after ``step``: the same answer on every process for the same step."""
        if jax.process_count() == 1:
            return self._noted
        return bool(multihost_utils.reached_preemption_sync_point(step))

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._noted = True
