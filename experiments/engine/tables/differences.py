"""Differences between rows of a table, with intervals over seeds and over groups of examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.presets import Comparison, Experiment, Metric, Scores
from experiments.engine.tables.example_sums import read_sums
from experiments.engine.tables.spec import Row, TaskSpec
from experiments.engine.tables.statistics import (
    ExampleSums,
    Interval,
    MetricsOfTotals,
    group_intervals,
    paired_seed_interval,
)
from experiments.engine.tables.table import Spread, Table

OVER_SEEDS = (
    "The interval over seeds (95 %, Student's t over pairs of runs with the same seed) shows how "
    "the difference varies when both networks are trained again on the same images."
)


@dataclasses.dataclass(frozen=True)
class MetricDifference:
    """The difference of a metric between two rows, in the unit of the evaluation.

    Attributes:
        mean: mean difference over pairs of runs with the same seed.
        seeds: interval over seeds; None for one seed.
        groups: interval over groups of examples; None if there is none.
    """

    mean: float
    seeds: Interval | None
    groups: Interval | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """The differences between two rows.

    Attributes:
        row: the row.
        baseline: the row that is subtracted.
        metrics: differences by the name of the metric, only of metrics that all runs have.
        paper: differences of the paper's scores, in the unit shown in tables.
        groups: number of groups of examples over which the intervals are computed; 0 for none.
        kind: plural noun for the groups, such as ``"photographs"``.
    """

    row: Row[Any]
    baseline: Row[Any]
    metrics: Mapping[str, MetricDifference]
    paper: Scores
    groups: int = 0
    kind: str = ""

    def plain(self) -> dict[str, Any]:
        """Returns the differences as values that JSON can store."""
        return {
            "preset": self.row.preset.name,
            "baseline": self.baseline.preset.name,
            "paper": self.paper,
            "kind_of_groups": self.kind or None,
            "groups": self.groups,
            "metrics": {name: dataclasses.asdict(each) for name, each in self.metrics.items()},
        }


def differences_of(
    spec: TaskSpec[Any], experiment: Experiment[Any], rows: Sequence[Row[Any]]
) -> list[Difference]:
    """Computes the differences of an experiment's comparisons.

    Args:
        spec: spec of the task.
        experiment: experiment whose rows are compared.
        rows: rows of the table.
    """
    by_name = {row.preset.name: row for row in rows}
    sums: dict[str, list[ExampleSums]] = {}
    if spec.examples is not None:
        for name in experiment.compared:
            found = [read_sums(folder) for folder in by_name[name].folders.values()]
            complete = [each for each in found if each is not None]
            if len(complete) == len(found):
                sums[name] = complete
    metrics = [metric for metric in spec.catalogue.metrics if metric.has_differences]
    return [
        _difference(
            each,
            by_name[each.preset],
            by_name[each.baseline],
            metrics,
            (sums.get(each.preset, []), sums.get(each.baseline, [])),
            spec.examples.metrics if spec.examples else None,
        )
        for each in experiment.comparisons
    ]


def _difference(
    comparison: Comparison,
    row: Row[Any],
    baseline: Row[Any],
    metrics: Sequence[Metric],
    sums: tuple[Sequence[ExampleSums], Sequence[ExampleSums]],
    metrics_of_totals: MetricsOfTotals | None,
) -> Difference:
    ours, theirs = sums
    over_groups: dict[str, Interval] = {}
    # Data that was changed between two runs may have other examples.
    if metrics_of_totals and ours and theirs and _same_examples((*ours, *theirs)):
        over_groups = group_intervals(ours, theirs, metrics_of_totals)
    found = {}
    for metric in metrics:
        name = metric.name
        if name in row.metrics and name in baseline.metrics:
            pair = [[run[name] for run in each.runs.values()] for each in (row, baseline)]
            mean = row.metrics[name].mean - baseline.metrics[name].mean
            found[name] = MetricDifference(mean, paired_seed_interval(*pair), over_groups.get(name))
    both = row.preset.paper.keys() & baseline.preset.paper.keys()
    paper = comparison.paper or {
        metric.name: row.preset.paper[metric.name] - baseline.preset.paper[metric.name]
        for metric in metrics
        if metric.name in both
    }
    if not over_groups:
        return Difference(row, baseline, found, paper)
    return Difference(row, baseline, found, paper, len(set(ours[0].groups)), ours[0].kind)


def _same_examples(runs: Sequence[ExampleSums]) -> bool:
    return all(list(run.groups) == list(runs[0].groups) for run in runs)


def difference_tables(
    differences: Sequence[Difference], metrics: Sequence[Metric]
) -> tuple[Table, ...]:
    """Returns a table for each metric, with a row for each difference that has the metric."""
    kinds = list(dict.fromkeys(each.kind for each in differences if each.kind))
    tables = []
    for metric in metrics:
        shown = [each for each in differences if metric.name in each.metrics]
        if not shown:
            continue
        values = [each.metrics[metric.name] for each in shown]
        columns = {"difference": [_signed(value.mean, metric) for value in values]}
        if any(value.seeds for value in values):
            columns["over seeds"] = [_ends(value.seeds, metric) for value in values]
        for kind in kinds:
            columns[f"over {kind}"] = [
                _ends(value.groups if each.kind == kind else None, metric)
                for each, value in zip(shown, values, strict=True)
            ]
        if any(metric.name in each.paper for each in shown):
            columns["paper's"] = [
                Spread(each.paper[metric.name]).text(metric.digits, "+")
                if metric.name in each.paper
                else ""
                for each in shown
            ]
        names = [(each.row.preset.row, each.baseline.preset.row) for each in shown]
        lines = (
            (*pair, *entries)
            for pair, entries in zip(names, zip(*columns.values(), strict=True), strict=True)
        )
        title = f"Differences in {metric.heading}"
        tables.append(Table(title, ("", "minus", *columns), tuple(lines), labels=2))
    return tuple(tables)


def _signed(value: float, metric: Metric) -> str:
    return Spread(value).scaled(metric.factor).text(metric.digits, "+")


def _ends(interval: Interval | None, metric: Metric) -> str:
    if interval is None:
        return ""
    return f"{_signed(interval.low, metric)} to {_signed(interval.high, metric)}"


def difference_notes(
    differences: Sequence[Difference], missing: Mapping[Path, str]
) -> tuple[str, ...]:
    """Returns the lines of text that explain the tables of differences.

    Args:
        differences: differences that the tables show.
        missing: reason for each run whose sums of examples are missing.
    """
    over_seeds = any(value.seeds for each in differences for value in each.metrics.values())
    notes = [OVER_SEEDS] if over_seeds else []
    # The rows of one table are evaluated on the same examples.
    for groups, kind in dict.fromkeys((each.groups, each.kind) for each in differences):
        if groups:
            notes.append(
                f"The interval over {kind} (95 %, bootstrap over {groups} {kind}) shows how the "
                "difference varies on other images with the same networks"
                f"{'; neither interval covers both' if over_seeds else ''}."
            )
    if missing:
        reasons = "; ".join(f"{run.name}: {reason}" for run, reason in missing.items())
        notes.append(f"No interval over groups of images for the rows of these runs: {reasons}.")
    return tuple(notes)
