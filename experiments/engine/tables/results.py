"""The results of an experiment: collected from its runs, saved as JSON, shown as a table."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.config import ConfigError
from experiments.engine.json_files import is_finite, read_json, write_json
from experiments.engine.presets import Metric, Preset, scores_text
from experiments.engine.tables.differences import Difference, difference_tables
from experiments.engine.tables.last_evaluation import Metrics
from experiments.engine.tables.spec import Report, Row
from experiments.engine.tables.table import Spread, Table, print_tables, save_tables
from experiments.engine.text import shown

ONE_SEED = (
    "One seed does not rank the rows: how much runs differ with the seed is not known. This shows "
    "that everything works, not which row is better."
)
SEVERAL_SEEDS = "± is the sample standard deviation over the seeds."
RESULTS, TABLE = "results.json", "table.md"

Earlier = dict[str, tuple[Any, dict[int, Metrics]]]


def read_results(path: Path) -> Earlier:
    """Reads config and runs of each row that earlier calls finished, by the name of the preset.

    Args:
        path: path of the JSON file; if it does not exist, there are no rows.

    Raises:
        ConfigError: the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        presets = read_json(path)["presets"]
        read = {name: (entry["config"], _by_seed(entry["runs"])) for name, entry in presets.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} must hold the results of an earlier call, got {error!r}: remove it to start "
            "the table again from the runs"
        ) from error
    return read


def earlier_runs(preset: Preset[Any], earlier: Earlier) -> dict[int, Metrics]:
    """Returns the runs of a row that earlier calls finished, unless its config has changed."""
    config, runs = earlier.get(preset.name, (None, {}))
    # As JSON stores it: without tuples.
    now = json.loads(json.dumps(dataclasses.asdict(preset.config)))
    return runs if config == now else {}


def write_results(
    output: Path,
    title: str,
    metrics: Sequence[Metric],
    rows: Sequence[Row[Any]],
    every: Sequence[Mapping[int, Metrics]],
    differences: Sequence[Difference],
    report: Report,
    difference_notes: Sequence[str] = (),
) -> None:
    """Writes and prints a table, the differences between its rows, and the report of the task.

    Args:
        output: folder of the table.
        title: title of the table.
        metrics: metrics of the task.
        rows: rows with the runs of the seeds that all rows have.
        every: metrics of all runs of each row, by seed, for the JSON file.
        differences: differences between rows.
        report: report of the task.
        difference_notes: lines of text that explain the differences.
    """
    seeds = list(rows[0].runs)
    table = _table(title, rows, metrics)
    note = SEVERAL_SEEDS if len(seeds) > 1 else ONE_SEED
    tables = (table, *difference_tables(differences, metrics), *report.tables)
    notes = (note, *difference_notes, *report.notes)
    presets = {
        row.preset.name: {
            "row": row.preset.row,
            "config": dataclasses.asdict(row.preset.config),
            "paper": row.preset.paper,
            **dataclasses.asdict(row.cost),
            "runs": {str(seed): runs[seed] for seed in sorted(runs)},
            "metrics": plain(row.metrics),
            **report.results.get(row.preset.name, {}),
        }
        for row, runs in zip(rows, every, strict=True)
    }
    results = {
        "title": table.title,
        "note": note,
        "seeds": seeds,
        "presets": presets,
        "differences": [difference.plain() for difference in differences],
    }
    write_json(output / RESULTS, results)
    save_tables(output / TABLE, tables, notes)
    print_tables(tables, [*notes, f"Results: {output}", *report.hints])


def plain(row: Mapping[str, Spread]) -> dict[str, Any]:
    """Converts a row of a table to values that JSON can store."""
    return {name: dataclasses.asdict(spread) for name, spread in row.items()}


def _table(title: str, rows: Sequence[Row[Any]], metrics: Sequence[Metric]) -> Table:
    found = [row.metrics for row in rows]
    columns = [metric for metric in metrics if metric.place != "detail"]
    shown = [metric for metric in columns if any(metric.name in row for row in found)]
    headlines = [metric for metric in metrics if metric.place == "headline"]
    lines = []
    for row, values in zip(rows, found, strict=True):
        entries = (
            values[metric.name].scaled(metric.factor).text(metric.digits)
            if metric.name in values
            else ""
            for metric in shown
        )
        paper = scores_text(headlines, row.preset.paper, row.preset.paper_note)
        costs = (f"{row.cost.parameters:,}", f"{row.cost.flops / 1e9:.4g}")
        lines.append((row.preset.row, *costs, *entries, paper))
    seeds = list(rows[0].runs)
    plural = "seeds" if len(seeds) > 1 else "seed"
    headings = ("", "parameters", "GFLOP", *(metric.heading for metric in shown), "paper")
    groups = tuple(row.preset.group for row in rows)
    title = f"{title}, {plural} {', '.join(map(str, seeds))}"
    return Table(title, headings, tuple(lines), groups=groups)


def _by_seed(runs: Mapping[str, Metrics]) -> dict[int, Metrics]:
    return {
        _seed(seed): {name: _number(value) for name, value in metrics.items()}
        for seed, metrics in runs.items()
    }


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"a seed of {shown(text)}")
    return int(text)


def _number(value: Any) -> float:
    if not is_finite(value):
        raise TypeError(f"a metric of {shown(value)}")
    return float(value)
