"""Metrics over time, as lines of JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.engine.files import write_atomically


class MetricsLog:
    """One JSON object a line, appended as training goes: ``{"step": 20, "loss": 0.31}``.

    Args:
        path: the file; its folder is created.
        resume_at: lines past this step are of a run that was cut off after its last checkpoint;
            they are dropped, for the resumed run writes them again.
    """

    def __init__(self, path: Path, resume_at: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= resume_at]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomically(path, lambda file: file.write(text.encode()))
        self._file = path.open("a", buffering=1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends the values of one step; NaN and infinity become null."""
        finite = {name: value if _is_finite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or abs(value) < float("inf")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads a log; a last line cut off by a crash is left out. An absent file is an empty log."""
    if not path.exists():
        return []
    complete, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]
