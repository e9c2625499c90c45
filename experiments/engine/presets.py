"""Presets: configs with a name and with the scores that the paper gives, and their tables."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import tyro

from experiments.engine.settings import Operation, RunConfig

# Scores by the name of the metric, in the unit in which tables show them.
Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a task's evaluation, and how tables and help texts write it.

    Attributes:
        name: in the result of an evaluation, such as ``"top1"``.
        label: in tables, such as ``"top-1"``.
        unit: in which it is shown, such as ``"%"``; empty for none.
        digits: after the decimal point.
        factor: of the value of an evaluation, to get the unit: 100 for shares shown in percent.
        place: ``"headline"``: it has a column in tables, and the column of the paper's scores shows
            it. ``"column"``: it has a column alone. ``"detail"``: neither; help texts,
            evaluations and JSON have it.
    """

    name: str
    label: str
    unit: str = ""
    digits: int = 2
    factor: float = 1.0
    place: Literal["headline", "column", "detail"] = "headline"

    @property
    def heading(self) -> str:
        """Of a column that holds the metric."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def text(self, score: float) -> str:
        """A score in the unit of :attr:`unit`, with label and unit: ``top-1 77.46 %``."""
        return " ".join(filter(None, (self.label, f"{score:.{self.digits}f}", self.unit)))


def scores_text(metrics: Sequence[Metric], scores: Scores, note: str = "") -> str:
    """Scores in a line, in the order of ``metrics``.

    Args:
        metrics: those to write; what has no score is left out.
        scores: by the name of the metric.
        note: follows in brackets, or stands alone where there is no score.
    """
    known = [metric.text(scores[metric.name]) for metric in metrics if metric.name in scores]
    text = ", ".join(known)
    return " ".join(filter(None, (text, f"({note})" if text and note else note)))


@dataclasses.dataclass(frozen=True)
class Preset[Config]:
    """A config that someone may want to run as it is.

    Attributes:
        name: on the command line, such as ``table2-resnet50-carafe``.
        row: what it is, such as "ResNet-50 w/ CARAFE++".
        config: what is trained.
        paper: the paper's scores for it.
        paper_note: what there is to say of them, or why there are none.
        measured: the scores of a run of this preset.
        measured_note: seeds, date and devices of that run.
        runtime: of that run.
    """

    name: str
    row: str
    config: Config
    paper: Scores = dataclasses.field(default_factory=dict)
    paper_note: str = ""
    measured: Scores = dataclasses.field(default_factory=dict)
    measured_note: str = ""
    runtime: str = "not measured"

    def describe(self, task: str, metrics: Sequence[Metric]) -> str:
        """The help text: command, runtime, the paper's scores and ours.

        Args:
            task: the name of its package in ``experiments``.
            metrics: of the task.
        """
        paper = scores_text(metrics, self.paper, self.paper_note)
        measured = scores_text(metrics, self.measured, self.measured_note)
        return (
            f"{self.row}. Command: python -m experiments.{task} train {self.name}. "
            f"Runtime: {self.runtime}. Paper: {paper}. Measured: {measured or 'not run yet'}."
        )


@dataclasses.dataclass(frozen=True)
class Experiment[Config: RunConfig]:
    """Presets that are trained to stand in one table.

    Attributes:
        title: of the table.
        presets: its rows, with different names.
        seeds: of the runs, unless others are asked for.
        operation: of the runs, unless another is asked for; None for that of the task.
    """

    title: str
    presets: tuple[Preset[Config], ...]
    seeds: tuple[int, ...] = (0,)
    operation: Operation | None = None


@dataclasses.dataclass(frozen=True)
class Catalogue[Config: RunConfig]:
    """What a task can train, and all that its command line shows of it.

    Attributes:
        metrics: of its evaluation, in the order in which tables show them.
        presets: all of them, at least one, with different names. Equal configs are one run, named
            after the first.
        experiments: by the name of their command.
        operation: of runs, by default.
    """

    metrics: tuple[Metric, ...]
    presets: tuple[Preset[Config], ...]
    experiments: Mapping[str, Experiment[Config]]
    operation: Operation

    @property
    def task(self) -> str:
        """The name of the task's package in ``experiments``."""
        return self.presets[0].config.task


def subcommands(catalogue: Catalogue[Any]) -> Any:
    """A type for tyro: one subcommand a preset, any field of which can be overridden.

    Args:
        catalogue: with at least two presets.
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
