"""Stopping a run between two steps, at SIGTERM (sent by clusters) or SIGINT (ctrl-C)."""

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

_STANDARD_ERROR = 2
_STOPPING = b"\nstopping after the next step; press ctrl-C again to stop at once\n"


class Interruption:
    """Records SIGTERM and SIGINT inside a ``with`` block, so that the run can be saved and stopped.

    By default, Python raises ``KeyboardInterrupt`` at SIGINT wherever the program is. Raised in a
    callback of a library, the exception can be lost. Raised while a checkpoint is written, it can
    leave the threads that write it waiting for each other. Inside the block only a second SIGINT
    raises it.

    A handler that is not Python's own, or that ignores SIGINT, stays. Python installs handlers in
    the main thread only: in another thread no signal is recorded.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._ctrl_c_pressed = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
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
        """Returns the first signal that asks to stop after ``step``; None if the run goes on.

        All processes stop after the same step: SIGINT in one of them is SIGTERM in the others.
        """
        if jax.process_count() == 1:
            return self._received
        if multihost_utils.reached_preemption_sync_point(step):
            return self._received or signal.SIGTERM
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = self._received or signal.Signals(number)

    def _note_ctrl_c(self, number: int, frame: FrameType | None) -> None:
        if self._ctrl_c_pressed:
            raise KeyboardInterrupt
        self._ctrl_c_pressed = True
        self._note(number, frame)
        # This may interrupt a ``print``, which cannot be called again before it ends.
        with contextlib.suppress(OSError):
            os.write(_STANDARD_ERROR, _STOPPING)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
