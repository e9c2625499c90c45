"""Presets: named configs with the scores of the paper, and the tables that they form."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from experiments.engine.config import check
from experiments.engine.settings import Operation, RunConfig

# Scores by the name of the metric, in the unit shown in tables.
Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of the evaluation of a task, and how tables and help texts show it.

    Attributes:
        name: key of the metric in the result of an evaluation, such as ``"top1"``.
        label: name of the metric in tables, such as ``"top-1"``.
        unit: unit in which the metric is shown, such as ``"%"``; empty for none.
        digits: number of digits after the decimal point.
        factor: factor from the value of an evaluation to the unit: 100 for shares shown in percent.
        place: ``"headline"``: the metric has a column in tables, and the column of the paper's
            scores shows it too. ``"column"``: it only has a column of its own. ``"detail"``: tables
            do not show it; help texts, evaluations and JSON do.
        compared: whether tables of differences show the metric although it is no headline.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 2
    factor: float = 1.0
    place: Literal["headline", "column", "detail"] = "headline"
    compared: bool = False

    @property
    def heading(self) -> str:
        """The heading of the metric's column in a table."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def has_differences(self) -> bool:
        """Whether tables show the differences of the metric between rows."""
        return self.compared or self.place == "headline"

    def text(self, score: float) -> str:
        """Formats a score in :attr:`unit`, with label and unit: ``top-1 77.46 %``."""
        return " ".join(filter(None, (self.label, f"{score:.{self.digits}f}", self.unit)))


def scores_text(metrics: Sequence[Metric], scores: Scores, note: str = "") -> str:
    """Formats scores in a line, in the order of ``metrics``.

    Args:
        metrics: metrics to format; those without a score are left out.
        scores: scores by the name of the metric.
        note: text that follows in brackets, or replaces the scores if there are none.
    """
    known = [metric.text(scores[metric.name]) for metric in metrics if metric.name in scores]
    text = ", ".join(known)
    return " ".join(filter(None, (text, f"({note})" if text and note else note)))


@dataclasses.dataclass(frozen=True)
class Preset[Config]:
    """A named config that a user may want to run unchanged.

    Attributes:
        name: name on the command line, such as ``table2-resnet50-carafe``.
        row: description of the row of a table, such as "ResNet-50 w/ CARAFE++".
        config: config that is trained.
        paper: scores that the paper gives for this preset, or a later paper in a ``group``.
        paper_note: remark on these scores, or the reason why there are none.
        measured: scores of a run of this preset.
        measured_note: seeds, date and devices of this run.
        runtime: duration of this run.
        group: name of the group of rows to which tables assign this row, such as ``"after the
            paper"``; empty for none.
    """

    name: str
    row: str
    config: Config
    paper: Scores = dataclasses.field(default_factory=dict)
    paper_note: str = ""
    measured: Scores = dataclasses.field(default_factory=dict)
    measured_note: str = ""
    runtime: str = "not measured"
    group: str = ""

    def describe(self, task: str, metrics: Sequence[Metric]) -> str:
        """Returns the help text: command, runtime, the published scores and the measured ones.

        Args:
            task: name of the task's package in ``experiments``.
            metrics: metrics of the task.
        """
        paper = scores_text(metrics, self.paper, self.paper_note)
        source = "Published later" if self.group else "Paper"
        measured = scores_text(metrics, self.measured, self.measured_note)
        return (
            f"{self.row}. Command: python -m experiments.{task} train {self.name}. "
            f"Runtime: {self.runtime}. {source}: {paper}. Measured: {measured or 'not run yet'}."
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two rows of a table whose difference the table shows.

    Attributes:
        preset: name of the preset of a row.
        baseline: name of the preset that is subtracted.
        paper: differences of the paper's scores, in the unit shown in tables; the default are the
            differences of the scores of both presets.
    """

    preset: str
    baseline: str
    paper: Scores = dataclasses.field(default_factory=dict)


def compared_with[Config](
    baseline: Preset[Config], presets: Sequence[Preset[Config]]
) -> tuple[Comparison, ...]:
    """Returns the comparisons of a baseline with every other preset of ``presets``."""
    return tuple(
        Comparison(preset.name, baseline.name) for preset in presets if preset.name != baseline.name
    )


@dataclasses.dataclass(frozen=True)
class Experiment[Config: RunConfig]:
    """Presets that are trained to form one table.

    Attributes:
        title: title of the table.
        presets: presets of the rows, with different names and descriptions.
        seeds: default seeds of the runs.
        operation: default operation of the runs; None for the default of the task.
        comparisons: pairs of rows whose differences the table shows.
    """

    title: str
    presets: tuple[Preset[Config], ...]
    seeds: tuple[int, ...] = (0,)
    operation: Operation | None = None
    comparisons: tuple[Comparison, ...] = ()

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for rows with equal names, and comparisons of unknown presets."""
        names = [preset.name for preset in self.presets]
        for found in (names, [preset.row for preset in self.presets]):
            check(len(set(found)) == len(found), "presets", "with different names", found)
        for each in self.comparisons:
            pair = [each.preset, each.baseline]
            different = each.preset != each.baseline
            check(different and {*pair} <= {*names}, "comparisons", f"two of {names}", pair)

    @property
    def compared(self) -> set[str]:
        """The names of the presets that are in a comparison."""
        return {name for each in self.comparisons for name in (each.preset, each.baseline)}


def at_learning_rates[Config: RunConfig](
    presets: Sequence[Preset[Config]], rates: Sequence[float]
) -> tuple[Preset[Config], ...]:
    """Returns every preset with each learning rate, named ``<name>-rate-<rate>``."""
    return tuple(
        Preset(
            f"{preset.name}-rate-{rate}",
            f"{preset.row}, learning rate {rate}",
            preset.config.with_learning_rate(rate),
            paper_note=preset.paper_note,
        )
        for preset in presets
        for rate in rates
    )


@dataclasses.dataclass(frozen=True)
class Catalogue[Config: RunConfig]:
    """Everything that a task can train, as its command line shows it.

    Attributes:
        metrics: metrics of the task's evaluation, in the order in which tables show them.
        presets: all presets, at least one, with different names. Presets with equal configs share
            one run, which is named after the first of them.
        experiments: experiments by the name of their command.
        operation: default operation of runs.
    """

    metrics: tuple[Metric, ...]
    presets: tuple[Preset[Config], ...]
    experiments: Mapping[str, Experiment[Config]]
    operation: Operation

    @property
    def task(self) -> str:
        """Name of the task's package in ``experiments``."""
        return self.presets[0].config.task


def subcommands(catalogue: Catalogue[Any]) -> Any:
    """Returns a type for tyro with one subcommand for each preset, whose fields can be overridden.

    Args:
        catalogue: catalogue with at least two presets.
    """
    (config_type,) = {type(preset.config) for preset in catalogue.presets}
    commands = [
        Annotated[
            config_type,
            tyro.conf.subcommand(
                name=preset.name,
                default=preset.config,
                description=preset.describe(catalogue.task, catalogue.metrics),
            ),
        ]
        for preset in catalogue.presets
    ]
    union: Any = commands[0]
    for command in commands[1:]:
        union = union | command
    return union
