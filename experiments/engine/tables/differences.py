"""Differences between rows of a table, with intervals over seeds and over groups of examples."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.presets import Comparison, Experiment, Metric, Scores
from experiments.engine.tables.example_sums import read_sums
from experiments.engine.tables.spec import Row, TaskSpec
from experiments.engine.tables.statistics import (
    LEAST_GROUPS,
    ExampleSums,
    Interval,
    group_intervals,
    paired_seed_interval,
    same_examples,
)
from experiments.engine.tables.table import Spread, Table

OVER_SEEDS = (
    "The interval over seeds (95 %, Student's t over pairs of runs with the same seed) shows how "
    "the difference varies when both networks are trained again on the same images."
)
_FEW_GROUPS = 30
FEW_GROUPS = (
    f"Intervals over fewer than {_FEW_GROUPS} groups are too narrow: they cover the mean in about "
    "92 % with 14 groups, and in 90 % with 10 (percentile bootstrap of a mean of normal values, "
    "simulated)."
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
        note: sentence about the groups for the notes of the table; may be empty.
        reasons: why there are no intervals over groups; empty if there are intervals, or if the
            task has no sums of examples.
    """

    row: Row[Any]
    baseline: Row[Any]
    metrics: Mapping[str, MetricDifference]
    paper: Scores
    groups: int = 0
    kind: str = ""
    note: str = ""
    reasons: tuple[str, ...] = ()

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


@dataclasses.dataclass(frozen=True)
class _OverGroups:
    """Intervals over groups, and the attributes of :class:`Difference` that belong to them."""

    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    groups: int = 0
    kind: str = ""
    note: str = ""
    reasons: tuple[str, ...] = ()


def differences_of(
    spec: TaskSpec[Any],
    experiment: Experiment[Any],
    rows: Sequence[Row[Any]],
    missing: Mapping[Path, str],
) -> list[Difference]:
    """Computes the differences of an experiment's comparisons.

    Args:
        spec: spec of the task.
        experiment: experiment whose rows are compared.
        rows: rows of the table.
        missing: known reason for each run whose sums of examples could not be computed.
    """
    by_name = {row.preset.name: row for row in rows}
    # Another command may have written or invalidated sums meanwhile, so all files are read again.
    sums = {
        run: read_sums(run)
        for name in (experiment.compared if spec.examples else ())
        for run in by_name[name].folders.values()
    }
    metrics = [metric for metric in spec.catalogue.metrics if metric.has_differences]
    differences = []
    for each in experiment.comparisons:
        row, baseline = by_name[each.preset], by_name[each.baseline]
        found = _over_groups(spec, row, baseline, sums, missing)
        differences.append(_difference(each, row, baseline, metrics, found))
    return differences


def _over_groups(
    spec: TaskSpec[Any],
    row: Row[Any],
    baseline: Row[Any],
    sums: Mapping[Path, ExampleSums | None],
    missing: Mapping[Path, str],
) -> _OverGroups:
    if spec.examples is None:
        return _OverGroups()
    ours, theirs = ([sums[run] for run in each.folders.values()] for each in (row, baseline))
    ours_complete = [each for each in ours if each is not None]
    theirs_complete = [each for each in theirs if each is not None]
    if len(ours_complete) < len(ours) or len(theirs_complete) < len(theirs):
        runs = [*row.folders.values(), *baseline.folders.values()]
        return _OverGroups(
            reasons=tuple(
                f"{run.name}: {missing.get(run, 'the sums of its last evaluation are missing')}"
                for run in runs
                if sums[run] is None
            )
        )
    names = f"{row.preset.row} minus {baseline.preset.row}"
    if not same_examples((*ours_complete, *theirs_complete)):
        return _OverGroups(reasons=(f"{names}: the runs were evaluated on different images",))
    first = ours_complete[0]
    groups = len(set(first.groups))
    if groups < LEAST_GROUPS:
        reason = (
            f"{groups} {first.kind} are too few (an interval over fewer than {LEAST_GROUPS} groups "
            "would be much too narrow)"
        )
        return _OverGroups(reasons=(reason,))
    intervals = group_intervals(ours_complete, theirs_complete, spec.examples.metrics)
    if not intervals:
        return _OverGroups(reasons=(f"{names}: no metric is finite in all resamples",))
    return _OverGroups(intervals, groups, first.kind, first.note)


def _difference(
    comparison: Comparison,
    row: Row[Any],
    baseline: Row[Any],
    metrics: Sequence[Metric],
    over: _OverGroups,
) -> Difference:
    found = {}
    for metric in metrics:
        name = metric.name
        if name in row.metrics and name in baseline.metrics:
            pair = [[run[name] for run in each.runs.values()] for each in (row, baseline)]
            mean = row.metrics[name].mean - baseline.metrics[name].mean
            seeds = paired_seed_interval(*pair)
            found[name] = MetricDifference(mean, seeds, over.intervals.get(name))
    both = row.preset.paper.keys() & baseline.preset.paper.keys()
    paper = comparison.paper or {
        metric.name: row.preset.paper[metric.name] - baseline.preset.paper[metric.name]
        for metric in metrics
        if metric.name in both
    }
    return Difference(row, baseline, found, paper, over.groups, over.kind, over.note, over.reasons)


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


def difference_notes(differences: Sequence[Difference]) -> tuple[str, ...]:
    """Returns the lines of text that explain the tables of differences."""
    over_seeds = any(value.seeds for each in differences for value in each.metrics.values())
    notes = [OVER_SEEDS] if over_seeds else []
    # Usually one kind: the rows of a table are evaluated on the same examples.
    kinds = dict.fromkeys((each.groups, each.kind, each.note) for each in differences)
    for groups, kind, note in kinds:
        if groups:
            sentences = [
                f"The interval over {kind} (95 %, bootstrap over {groups} {kind}) shows how the "
                "difference varies on other images with the same networks"
                f"{'; neither interval covers both' if over_seeds else ''}."
            ]
            if groups < _FEW_GROUPS:
                sentences.append(FEW_GROUPS)
            notes.append(" ".join([*sentences, note] if note else sentences))
    reasons = dict.fromkeys(reason for each in differences for reason in each.reasons)
    if reasons:
        notes.append(f"No interval over groups of images: {'; '.join(reasons)}.")
    return tuple(notes)
