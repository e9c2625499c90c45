"""The interface of a task: how the runs of its catalogue are trained and shown."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.claim import has_checkpoints, is_finished
from experiments.engine.folders import Folders
from experiments.engine.presets import Catalogue, Preset
from experiments.engine.runs import LoadedRun, RunType
from experiments.engine.settings import Operation, RunConfig
from experiments.engine.tables.cost import Cost
from experiments.engine.tables.statistics import ExampleSums, MetricsOfTotals
from experiments.engine.tables.table import Spread, Table


@dataclasses.dataclass(frozen=True)
class Row[Config: RunConfig]:
    """A row of a table whose runs are finished.

    Attributes:
        preset: preset of the row.
        cost: cost of the preset's model for one image.
        folders: folders of the runs, by seed.
        runs: metrics of the final state of each run, by seed, in the order of the seeds.
    """

    preset: Preset[Config]
    cost: Cost
    folders: Mapping[int, Path]
    runs: Mapping[int, dict[str, float]]

    @property
    def run(self) -> Path:
        """The folder of the first seed whose run still exists in its final state."""
        return next(
            folder
            for folder in self.folders.values()
            if is_finished(folder) and has_checkpoints(folder)
        )

    @property
    def metrics(self) -> dict[str, Spread]:
        """Mean and deviation of each metric that all runs have."""
        first, *others = self.runs.values()
        # A metric may be undefined in a run: the AP of a size is, if no object has that size.
        names = [name for name in first if all(name in run for run in others)]
        return {name: Spread.of([run[name] for run in self.runs.values()]) for name in names}


@dataclasses.dataclass(frozen=True)
class Report:
    """Additions of a task to the table of an experiment.

    Attributes:
        tables: further tables.
        notes: lines of text below all tables.
        results: further entries of the JSON file, by the name of the preset.
        hints: lines that are only printed to the terminal.
    """

    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    results: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    hints: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExampleMetrics[Config: RunConfig]:
    """How metrics follow from sums over examples; see :mod:`experiments.engine.tables.statistics`.

    Attributes:
        sums: function that evaluates the state of a run and returns the sums of each example. Every
            process calls it, and it returns the same on all of them.
        metrics: function from totals over examples, ``[B, ...]`` for any number ``B`` of resamples,
            to metrics ``[B]``, with the names and in the unit of the task's evaluation. They must
            be finite even for totals without the examples of a class.
    """

    sums: Callable[[LoadedRun[Config], Folders], ExampleSums]
    metrics: MetricsOfTotals


@dataclasses.dataclass(frozen=True)
class TaskSpec[Config: RunConfig]:
    """How the runs of a task are trained, measured and reported.

    Attributes:
        catalogue: catalogue of the task.
        run_type: type of the task's runs.
        train: function that trains a config in the folder of a run, or continues the run.
        cost: function that counts parameters and operations of the model of a config for one image,
            from shapes only.
        step_seconds: function that returns the median seconds of a training step and of an
            inference, each for a random batch of a given size.
        resized: function that returns the same config for images with another shorter side, in
            pixels.
        prepare_config: function that makes the config that is trained, from a preset's config, the
            folder of the run and the folders of the command. It raises an error if weights from
            which the run starts are missing.
        report: function that makes the task's additions to a table, and may also draw it, from the
            rows, the folder of the table and the folders of the command. Only the first process
            calls it.
        examples: how metrics follow from sums over examples; None if tables show no intervals over
            examples.
        losses: values of the training log that are drawn beside the metrics of the evaluations, and
            the titles of their panels.
    """

    catalogue: Catalogue[Config]
    run_type: RunType[Config]
    train: Callable[[Config, Path, Folders, Operation], Any]
    cost: Callable[[Config], Cost]
    step_seconds: Callable[[Config, int], tuple[float, float]]
    resized: Callable[[Config, int], Config]
    prepare_config: Callable[[Config, Path, Folders], Config] = lambda config, *folders: config
    report: Callable[[Sequence[Row[Config]], Path, Folders], Report] | None = None
    examples: ExampleMetrics[Config] | None = None
    losses: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"loss": "training: loss"}
    )
