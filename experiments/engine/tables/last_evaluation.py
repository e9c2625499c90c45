"""The last evaluation of a run, as its log has it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.engine.config import ConfigError
from experiments.engine.monitoring.logs import EVALUATION, METRICS, read_metrics

Metrics = dict[str, float]


def last_evaluation(folder: Path) -> Metrics:
    """Returns the metrics of the final state of a finished run.

    Raises:
        ConfigError: the run has not been evaluated.
        LogError: its log is damaged.
    """
    last = last_evaluation_line(folder)
    if last is None:
        log = read_metrics(folder / METRICS)
        raise ConfigError(f"{folder / METRICS} must be the log of an evaluated run, got {log!r}")
    return metrics_of_line(last)


def metrics_of_line(line: Mapping[str, Any]) -> Metrics:
    """Returns the metrics in the line of an evaluation in a log."""
    # The log has null for a metric that is not finite.
    return {
        key.removeprefix(EVALUATION): value
        for key, value in line.items()
        if key.startswith(EVALUATION) and value is not None
    }


def last_evaluation_line(folder: Path) -> dict[str, Any] | None:
    """Returns the line of the last evaluation of a run in its log, None if there is none.

    Raises:
        LogError: the log is damaged.
    """
    log = read_metrics(folder / METRICS)
    evaluations = [line for line in log if any(key.startswith(EVALUATION) for key in line)]
    return evaluations[-1] if evaluations else None
