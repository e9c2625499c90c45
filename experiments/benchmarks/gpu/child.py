"""A step in a process of its own: ``python -m experiments.benchmarks.gpu.child '{...}'``.

The parent starts it. Its argument is JSON: ``do`` names the function, ``seconds`` after which the
parent ends it, ``parent`` its process id, ``interpret`` whether kernels run in Pallas'
interpreter, ``options`` the arguments of the function. Its standard output carries messages alone,
a JSON object a line; what libraries print goes to its standard error.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

# Where the functions are; each is handed `Tell` and its options, and returns what to print.
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


class Tell:
    """Sends messages to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", buffering=1)

    def _send(self, kind: str, value: Any) -> None:
        print(json.dumps({kind: value}), file=self._file, flush=True)

    def stage(self, doing: str) -> None:
        """What it prepares from now on, for the parent to say if that does not end."""
        print(doing, file=sys.stderr, flush=True)
        self._send("stage", doing)

    def running(self, what: str, case: Mapping[str, Any] | None = None) -> None:
        """What runs on the device from now on; a kernel hangs if that does not end.

        Args:
            what: for people.
            case: that the kernels compute, in JSON; left out again if it does not end.
        """
        doing = f"running {what}"
        print(doing, file=sys.stderr, flush=True)
        self._send("running", {"doing": doing, "case": case})

    def measured(self, **values: Any) -> None:
        """Numbers for the record, kept whatever happens next. NaN becomes text: JSON has none."""
        self._send("measured", _without_nan(values))

    def wrong(self, text: str) -> None:
        """A result is not right."""
        print(f"WRONG: {text}", file=sys.stderr, flush=True)
        self._send("wrong", text)

    def refused(self, text: str) -> None:
        """What the device or the kernels do not serve."""
        self._send("refused", text)

    def error(self, text: str) -> None:
        """An exception ended it."""
        self._send("error", text)

    def done(self, text: str) -> None:
        """It has come to its end; a line for people."""
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
    """An error's type, and the first line of its message that says something."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *(line[:300] for line in lines[:1])])


def end_with(parent: int) -> None:
    """Has Linux kill this process when its parent ends, and rather than it when memory runs out.

    Linux means the thread that started the process. That of ``parent`` stays; a profiler between
    the two may start processes from threads that end, so that nothing is asked for under one.
    """
    if os.getppid() == parent:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")


def run(tell: Tell, spec: Mapping[str, Any]) -> int:
    """Runs a step; returns its exit code."""
    do = spec["do"]
    module = importlib.import_module(f"experiments.benchmarks.gpu.{FUNCTIONS[do]}")
    try:
        with contextlib.ExitStack() as stack:
            if spec["interpret"]:
                mosaic_gpu = importlib.import_module("carafe_kernels.mosaic_gpu")
                stack.enter_context(mosaic_gpu.interpreted())
            tell.done(getattr(module, do)(tell, **spec["options"]))
    except NotImplementedError as error:
        tell.refused(one_line(error))
    except Exception as error:
        traceback.print_exc()
        tell.error(one_line(error))
        return 1
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    spec = json.loads(arguments[0])
    end_with(spec["parent"])
    tell = Tell(os.dup(1))
    os.dup2(2, 1)
    faulthandler.enable()
    # Where Python stands shortly before the parent ends it.
    faulthandler.dump_traceback_later(max(spec["seconds"] - 2, 1))
    tell.stage("importing")
    return run(tell, spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
