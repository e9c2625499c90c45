"""The outcome of a child process, from its exit and its messages."""

import dataclasses
import enum
import json
import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any


class Outcome(enum.StrEnum):
    """How a step ended."""

    OK = "ok"
    WRONG = "wrong"  # it ran, and its results are wrong
    REFUSED = "refused"  # it does not support the case or the device
    ERROR = "error"  # an exception
    OUT_OF_MEMORY = "out of memory"
    CUDA_ERROR = "CUDA error"  # an error after which the CUDA context cannot be used
    CRASH = "crash"  # ended by a signal
    HANG = "hang"  # exceeded its own limit while kernels ran
    SLOW = "slow"  # exceeded its own limit before kernels ran: imports, tracing, compiling
    BAD_OUTPUT = "bad output"
    NO_TIME = "no time"  # ended before its own limit, because the phase was over
    NOT_RUN = "not run"  # not started: no time left, or a tool is missing


BROKEN = frozenset({Outcome.CUDA_ERROR, Outcome.CRASH, Outcome.HANG})
"""Outcomes after which the kernel is not run again."""

UNFINISHED = frozenset({Outcome.NOT_RUN, Outcome.NO_TIME, Outcome.SLOW})
"""Outcomes that say nothing about a kernel, so that a step may run again."""

FAILED = BROKEN | {Outcome.WRONG, Outcome.ERROR, Outcome.OUT_OF_MEMORY, Outcome.BAD_OUTPUT}

KINDS_OF_MESSAGE = ("stage", "running", "measured", "wrong", "refused", "error", "done")

_OUT_OF_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|CUDA_ERROR_OUT_OF_MEMORY|OutOfMemoryError|MemoryError|CUDA out of memory"
)
_STICKY = re.compile(
    r"CUDA_ERROR_(ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|INVALID_ADDRESS_SPACE"
    r"|INVALID_PC|LAUNCH_FAILED|LAUNCH_TIMEOUT|HARDWARE_STACK_ERROR|ASSERT|ECC_UNCORRECTABLE"
    r"|CONTAINED|EXTERNAL_DEVICE|UNKNOWN)"
    r"|an illegal memory access was encountered|unspecified launch failure|misaligned address"
)


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a child process ended.

    Attributes:
        status: exit status as in ``Popen.returncode``; ``None`` if the process did not end.
        killed: reason why the parent killed the process: ``HANG`` (its own limit), ``NO_TIME`` or
            ``BAD_OUTPUT``; ``None`` if the parent did not.
        output: bytes of the standard output.
        log: end of the standard error.
    """

    status: int | None
    killed: Outcome | None
    output: bytes
    log: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The outcome of a step.

    Attributes:
        outcome: outcome of the step.
        detail: reason for the outcome, in one line.
        measured: measurements that the child process sent.
        case: case in JSON that ran when the process ended, if known.
    """

    outcome: Outcome
    detail: str
    measured: tuple[Mapping[str, Any], ...] = ()
    case: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Last:
    """The last stage that a child reported.

    Attributes:
        doing: description of the stage.
        running: whether programs ran on the device.
        case: the case in JSON that ran, if any.
    """

    doing: str = ""
    running: bool = False
    case: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> "_Last":
        for message in reversed(messages):
            match message:
                case {"running": {"doing": doing, "case": dict() | None as case}}:
                    return cls(str(doing), True, case)
                case {"stage": doing}:
                    return cls(str(doing))
        return cls()


def parse(output: bytes) -> tuple[list[dict[str, Any]], str | None]:
    """Parses the messages of a child: one JSON object with one key per line.

    Returns:
        The messages before the first invalid line, and this line, or ``None`` if all are valid.
        An incomplete last line is invalid.
    """
    messages: list[dict[str, Any]] = []
    for line in output.split(b"\n"):
        if not line:
            continue
        try:
            message = json.loads(line)
        except ValueError:
            return messages, repr(line[:60])
        if not isinstance(message, dict) or [*message] not in [[kind] for kind in KINDS_OF_MESSAGE]:
            return messages, repr(line[:60])
        messages.append(message)
    return messages, None


def verdict(ending: Ending) -> Verdict:
    """Judges the ending of a child process."""
    messages, garbage = parse(ending.output)
    said: dict[str, list[Any]] = {kind: [] for kind in KINDS_OF_MESSAGE}
    for message in messages:
        for kind, value in message.items():
            said[kind].append(value)
    measured = tuple(value for value in said["measured"] if isinstance(value, dict))
    last = _Last.of(messages)
    outcome, detail = _outcome(ending, said, garbage, last)
    return Verdict(outcome, detail, measured, last.case)


def _outcome(
    ending: Ending, said: Mapping[str, list[Any]], garbage: str | None, last: _Last
) -> tuple[Outcome, str]:
    stage = f" while {last.doing}" if last.doing else ""
    if ending.killed is Outcome.BAD_OUTPUT:
        return Outcome.BAD_OUTPUT, "it wrote too much"
    if ending.killed is not None:
        no_time = ending.killed is Outcome.NO_TIME
        outcome = ending.killed if no_time or last.running else Outcome.SLOW
        detail = f"{'ended' if no_time else 'did not end'}{stage}"
        return outcome, detail + ("" if ending.status is not None else "; survived SIGKILL")
    errors = " ".join(map(str, said["error"]))
    failed = ending.status != 0
    if failed and (found := _STICKY.search(errors + ending.log)):
        return Outcome.CUDA_ERROR, f"{found.group()}{stage}"
    if failed and (found := _OUT_OF_MEMORY.search(errors + ending.log)):
        return Outcome.OUT_OF_MEMORY, f"{found.group()}{stage}"
    if ending.status == -signal.SIGKILL:
        return Outcome.OUT_OF_MEMORY, f"SIGKILL by the system{stage}, probably out of memory"
    if ending.status is not None and ending.status < 0:
        return Outcome.CRASH, f"{_signal_name(-ending.status)}{stage}"
    if garbage is not None:
        return Outcome.BAD_OUTPUT, f"not a message: {garbage}"
    if said["error"]:
        return Outcome.ERROR, f"{errors}{stage}"
    if failed:
        return Outcome.ERROR, f"exit code {ending.status}{stage}: {_last_line(ending.log)}"
    if said["refused"]:
        return Outcome.REFUSED, str(said["refused"][0])
    if not said["done"]:
        return Outcome.BAD_OUTPUT, "it ended without a result"
    if said["wrong"]:
        return Outcome.WRONG, "; ".join(map(str, said["wrong"]))
    return Outcome.OK, str(said["done"][-1])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"
