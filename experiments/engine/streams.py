"""The standard streams of a program, which may be closed or may have lost their readers."""

import contextlib
import os
import select
import sys

_STANDARD_OUTPUT = 1


def say(message: object) -> None:
    """Prints to standard error, if that is possible."""
    if sys.stderr is not None:  # ``print`` would use the standard output
        with contextlib.suppress(OSError, ValueError):
            print(message, file=sys.stderr, flush=True)


def flush() -> None:
    """Writes out what both streams hold, as far as that is possible."""
    for stream in (sys.stdout, sys.stderr):
        # A closed stream is None, and the reader of an open one may have ended.
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


def output_is_read() -> bool:
    """Whether standard output is no pipe, or a pipe that still has a reader."""
    poll = select.poll()
    poll.register(_STANDARD_OUTPUT, 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def discard_output() -> None:
    """Discards all further output. Otherwise Python would fail again when it flushes at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _STANDARD_OUTPUT)
    os.close(null)
