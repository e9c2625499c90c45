"""Runs a step in a child process: ``python -m experiments.benchmarks.gpu.child '{...}'``.

The parent starts it with one argument in JSON: ``do`` is the name of the function, ``seconds`` the
time limit, ``parent`` the process id of the parent, ``interpret`` whether kernels run in Pallas'
interpreter, ``lock`` a file that the processes lock which need the device for themselves, and
``options`` the arguments of the function. Standard output has only messages, one JSON object per
line. Output of libraries goes to standard error.
"""

import contextlib
import ctypes
import faulthandler
import fcntl
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# The module of each function. A function takes a `Reporter` and its options, and returns a summary.
FUNCTIONS = {
    "card": "machine",
    "ceilings": "machine",
    "smoke": "smoke",
    "switched": "switched",
    "reference": "right",
    "right": "right",
    "checks": "checks",
    "operators": "fast",
    "layers": "layers",
    "torch_operator": "torch_baselines",
    "one_kernel": "fast",
}
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


class Reporter:
    """Sends messages to the parent process.

    Args:
        descriptor: descriptor of the file that gets the messages.
        lock: file that :meth:`device_alone` locks.
    """

    def __init__(self, descriptor: int, lock: str = os.devnull) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1)
        self._lock = lock

    @contextlib.contextmanager
    def device_alone(self) -> Iterator[None]:
        """Waits until no other process measures times on the device.

        The lock ends with the process, so a process that is killed does not block the others.
        """
        self.stage("waiting for the device")
        with open(self._lock, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _send(self, kind: str, value: Any) -> None:
        print(json.dumps({kind: value}), file=self._file, flush=True)

    def stage(self, doing: str) -> None:
        """Names the stage that begins now, for the parent to report if it does not end."""
        print(doing, file=sys.stderr, flush=True)
        self._send("stage", doing)

    def running(self, what: str, case: Mapping[str, Any] | None = None) -> None:
        """Names what runs on the device from now on. If it does not end, a kernel hangs.

        Args:
            what: description of the work.
            case: the case that the kernels compute, in JSON; later steps leave it out if it hangs.
        """
        doing = f"running {what}"
        print(doing, file=sys.stderr, flush=True)
        self._send("running", {"doing": doing, "case": case})

    def measured(self, **values: Any) -> None:
        """Sends measurements, which are kept even if the step fails later. NaN is sent as text."""
        self._send("measured", _without_nan(values))

    def wrong(self, text: str) -> None:
        """Reports a wrong result."""
        print(f"WRONG: {text}", file=sys.stderr, flush=True)
        self._send("wrong", text)

    def refused(self, text: str) -> None:
        """Reports that the device or the kernels do not support the step."""
        self._send("refused", text)

    def error(self, text: str) -> None:
        """Reports the exception that ended the step."""
        self._send("error", text)

    def done(self, text: str) -> None:
        """Reports the end of the step, with a summary."""
        self._send("done", text)


def _without_nan(value: Any) -> Any:
    match value:
        case float() if value != value or value in (float("inf"), float("-inf")):
            return str(value)
        case Mapping():
            return {key: _without_nan(each) for key, each in value.items()}
        case list() | tuple():
            return [_without_nan(each) for each in value]
    return value


def one_line(error: BaseException) -> str:
    """The type of an exception, and the first line of its message that is not empty."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *(line[:300] for line in lines[:1])])


def end_with(parent: int) -> None:
    """Makes Linux kill this process when the parent ends.

    If memory runs out, Linux kills this process before the parent. Linux watches the thread that
    started the process. A profiler may start processes from threads that end early. So nothing is
    set if a profiler runs between ``parent`` and this process.
    """
    if os.getppid() == parent:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def run(reporter: Reporter, spec: Mapping[str, Any]) -> int:
    """Runs a step; returns its exit code."""
    do = spec["do"]
    module = importlib.import_module(f"experiments.benchmarks.gpu.{FUNCTIONS[do]}")
    try:
        with contextlib.ExitStack() as stack:
            if spec["interpret"]:
                mosaic_gpu = importlib.import_module("carafe_kernels.mosaic_gpu")
                stack.enter_context(mosaic_gpu.interpreted())
            reporter.done(getattr(module, do)(reporter, **spec["options"]))
    except NotImplementedError as error:
        reporter.refused(one_line(error))
    except Exception as error:
        traceback.print_exc()
        reporter.error(one_line(error))
        return 1
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    spec = json.loads(arguments[0])
    end_with(spec["parent"])
    reporter = Reporter(os.dup(1), spec["lock"])
    os.dup2(2, 1)
    faulthandler.enable()
    # Write Python's stack shortly before the parent ends the process.
    faulthandler.dump_traceback_later(max(spec["seconds"] - 2, 1))
    reporter.stage("importing")
    return run(reporter, spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
