"""The logs of a run: values over time, as lines of JSON."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from experiments.engine.distributed import is_primary
from experiments.engine.errors import UserError
from experiments.engine.files import write_atomically
from experiments.engine.json_files import is_finite, is_int64, parse_json
from experiments.engine.text import shown

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
# The prefix of the metrics of an evaluation.
EVALUATION = "eval/"


class LogError(UserError, ValueError):
    """A log is damaged."""


class RunLogs:
    """The logs in a run's folder; only the primary process writes metrics and timing.

    ``metrics.jsonl`` holds the values that do not change when a run is repeated or resumed, and
    ``timing.jsonl`` the other values. ``tensorboard/`` holds both, for TensorBoard.
    ``incidents.jsonl`` lists skipped steps, unreadable records and damaged checkpoints, and keeps
    the lines of earlier starts; every process but the primary has its own file, with its number in
    the name.

    Lines after ``resume_at`` were written by a process that ended before its next checkpoint. They
    are dropped, because this process writes them again.

    Args:
        folder: folder of the run.
        resume_at: the last step that is not repeated.
        evaluated: whether step ``resume_at`` has been evaluated; if not, lines of its evaluation
            are dropped too.

    Raises:
        LogError: a log of an earlier start is damaged.
    """

    def __init__(self, folder: Path, resume_at: int, evaluated: bool = True) -> None:
        def keep(line: Mapping[str, Any]) -> bool:
            repeated = not evaluated and any(name.startswith(EVALUATION) for name in line)
            return line["step"] < resume_at + (not repeated)

        self._logs: dict[str, JsonLines] = {}
        if is_primary():
            self._logs = {name: JsonLines(folder / name, keep) for name in (METRICS, TIMING)}
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at + 1)
        process = jax.process_index()
        incidents = folder / (f"incidents-{process}.jsonl" if process else "incidents.jsonl")
        self._incidents = JsonLines(incidents)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values that are the same when the run is repeated."""
        self._write(METRICS, step, values)

    def evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the metrics of an evaluation, with the prefix ``eval/``."""
        self._write(METRICS, step, {f"{EVALUATION}{name}": value for name, value in values.items()})

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values that differ when the run is repeated."""
        self._write(TIMING, step, values)

    def incident(self, step: int, kind: str, **details: Any) -> None:
        """Logs a fault, whether it ended the run or not."""
        self._incidents.write(step, {"incident": kind, **details})

    def close(self) -> None:
        """Closes the files."""
        if self._logs:
            self._events.close()
        for log in (*self._logs.values(), self._incidents):
            log.close()

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if self._logs:
            self._logs[name].write(step, values)
            for tag, value in values.items():
                if math.isfinite(value):
                    self._events.add_scalar(tag, value, step)


class JsonLines:
    """A file with one JSON object in each line, appended in training: ``{"step": 2, "loss": 0.3}``.

    Args:
        path: path of the file; its folder is created.
        keep: function that selects the existing lines that are kept.

    Raises:
        LogError: an existing line is damaged.
    """

    def __init__(
        self, path: Path, keep: Callable[[Mapping[str, Any]], bool] = lambda line: True
    ) -> None:
        kept = [line for line in read_log(path) if keep(line)]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(path, lambda file: file.write(text.encode()))
        self._file = path.open("a", buffering=1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the values of one step; NaN and infinity are written as null."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """Reads a log.

    Args:
        path: path of the log; if it does not exist, the log is empty.

    Returns:
        The lines, each with ``step``; a last line that a crash truncated is left out.

    Raises:
        LogError: a line is damaged.
    """
    if not path.exists():
        return []
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    lines = []
    for number, text in enumerate(complete.splitlines(), start=1):
        try:
            line = parse_json(text)
        except ValueError as error:
            raise _damaged(path, number, text) from error
        if not isinstance(line, dict) or not is_int64(line.get("step")):
            raise _damaged(path, number, line)
        lines.append(line)
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads a log of metrics, whose values are numbers or None; see :func:`read_log`.

    Args:
        path: path of the log; if it does not exist, the log is empty.

    Raises:
        LogError: a line is damaged, or has a value of another type.
    """
    lines = read_log(path)
    for number, line in enumerate(lines, start=1):
        if not all(value is None or is_finite(value) for value in line.values()):
            raise _damaged(path, number, line)
    return lines


def _damaged(path: Path, number: int, line: Any) -> LogError:
    return LogError(
        f"{path}: line {number} must be a JSON object of a step and its values, got {shown(line)}: "
        "correct the line or remove it"
    )
