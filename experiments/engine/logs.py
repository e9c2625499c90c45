"""What a run writes down as it goes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

from experiments.engine.distributed import is_primary
from experiments.engine.metrics import MetricsLog

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"


class RunLogs:
    """The logs in a run's folder; metrics and timing are the primary process's alone.

    ``metrics.jsonl`` holds what a repeated or resumed run gives again, ``timing.jsonl`` what it
    does not. ``tensorboard/`` holds both, for TensorBoard. ``incidents.jsonl``, with the number of
    the process in its name for every process but the first, tells of skipped steps, unreadable
    records and damaged checkpoints, and keeps what was there before.

    Args:
        folder: of the run.
        resume_at: the step after which this process goes on.
    """

    def __init__(self, folder: Path, resume_at: int) -> None:
        self._logs: dict[str, MetricsLog] = {}
        if is_primary():
            self._logs = {name: MetricsLog(folder / name, resume_at) for name in (METRICS, TIMING)}
            self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at + 1)
        process = jax.process_index()
        incidents = folder / (f"incidents-{process}.jsonl" if process else "incidents.jsonl")
        self._incidents = MetricsLog(incidents, resume_at=_ALL)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Writes down values that are the same each time the run is repeated."""
        self._write(METRICS, step, values)

    def timing(self, step: int, values: Mapping[str, float]) -> None:
        """Writes down values that differ each time."""
        self._write(TIMING, step, values)

    def incident(self, step: int, kind: str, **details: Any) -> None:
        """Writes down something that should not have happened."""
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


_ALL = 2**63
