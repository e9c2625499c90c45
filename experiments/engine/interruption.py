"""Stopping a run between two steps: SIGTERM, of a cluster, and SIGINT, of ctrl-C."""

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_STANDARD_ERROR = 2
_STOPPING = b"\nstopping after this step or evaluation; press ctrl-C again to stop at once\n"


class Interruption:
    """Records SIGTERM and SIGINT inside a ``with`` block, so that the run can be saved and stopped.

    By default, Python raises ``KeyboardInterrupt`` at SIGINT wherever the program is. In a callback
    of a library the exception is lost, and while threads write a checkpoint it leaves them without
    each other. Inside the block only a second SIGINT raises it. A program that ignores SIGINT, or
    has a handler of its own, keeps it. Handlers can only be installed in the main thread.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # With several processes the handler of JAX must stay: it passes SIGTERM to the others.
        if jax.process_count() == 1:
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._note)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._note_ctrl_c)
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def requested(self, step: int) -> signal.Signals | None:
        """Returns the signal that asks to stop after ``step``; None if the run goes on.

        All processes stop after the same step: SIGINT in one of them is SIGTERM in the others.
        """
        if jax.process_count() == 1:
            return self._received
        if multihost_utils.reached_preemption_sync_point(step):
            return self._received or signal.SIGTERM
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = signal.Signals(number)

    def _note_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._note(number, frame)
        # This may interrupt a ``print``, which cannot be called again before it ends.
        with contextlib.suppress(OSError):
            os.write(_STANDARD_ERROR, _STOPPING)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
