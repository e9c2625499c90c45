"""A step in a process of its own: ``python -m experiments.benchmarks.gpu.child '{...}'``.

The parent starts it. Its argument is JSON: ``do`` names the function, ``seconds`` after which the
parent ends it, ``interpret`` whether kernels run in Pallas' interpreter, ``options`` the arguments
of the function. Its standard output carries messages alone, a JSON object a line; what libraries
print goes to its standard error.
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
        """What it does from now on, for the parent to say if that does not end."""
        print(doing, file=sys.stderr, flush=True)
        self._send("stage", doing)

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
    """An error's type and the first line of its message."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first[:300]}"


def _end_with_the_parent() -> None:
    """Has Linux kill this process when its parent ends, and rather than it when memory runs out."""
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
    _end_with_the_parent()
    tell = Tell(os.dup(1))
    os.dup2(2, 1)
    spec = json.loads(arguments[0])
    faulthandler.enable()
    # Where Python stands shortly before the parent ends it.
    faulthandler.dump_traceback_later(max(spec["seconds"] - 2, 1))
    tell.stage("importing")
    return run(tell, spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
