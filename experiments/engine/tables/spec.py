"""What a task declares: how the runs of its catalogue are trained and shown."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.claim import has_checkpoints, is_finished
from experiments.engine.folders import Folders
from experiments.engine.presets import Catalogue, Preset
from experiments.engine.runs import RunType
from experiments.engine.settings import Operation, RunConfig
from experiments.engine.tables.cost import Cost
from experiments.engine.tables.table import Spread, Table


@dataclasses.dataclass(frozen=True)
class Row[Config: RunConfig]:
    """A row of a table whose runs are finished.

    Attributes:
        preset: that was trained.
        cost: of its model on one image.
        folders: of its runs, by the seed.
        runs: metrics of the final state of each run, by the seed, in the order of the seeds.
    """

    preset: Preset[Config]
    cost: Cost
    folders: Mapping[int, Path]
    runs: Mapping[int, dict[str, float]]

    @property
    def run(self) -> Path:
        """The folder of the first seed whose run is still there, as it was when it ended."""
        return next(
            folder
            for folder in self.folders.values()
            if is_finished(folder) and has_checkpoints(folder)
        )

    @property
    def metrics(self) -> dict[str, Spread]:
        """Mean and deviation of each metric that all runs have."""
        first, *others = self.runs.values()
        # A metric may be undefined in a run, such as the AP of sizes of which there is no object.
        names = [name for name in first if all(name in run for run in others)]
        return {name: Spread.of([run[name] for run in self.runs.values()]) for name in names}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a task adds to the table of an experiment.

    Attributes:
        tables: further ones.
        notes: lines below all tables.
        results: further entries of the JSON, by the name of the preset.
        hints: lines for the terminal alone.
    """

    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    results: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    hints: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TaskSpec[Config: RunConfig]:
    """How the runs of a task are trained, measured and reported.

    Attributes:
        catalogue: what the task can train.
        run_type: of its runs.
        train: trains a config in the folder of a run, or goes on with it.
        cost: parameters and operations of a config's model on one image, by shapes alone.
        step_seconds: median seconds of a training step and of an inference, each on a random batch
            of a given size.
        resized: the same config for images whose shorter side has another length, in pixels.
        prepare_config: makes the config that is trained, from a preset's config, the folder of the
            run and those of the command. Raises an error where something that the run starts from
            is missing.
        report: what the task adds to a table, which it may also draw: from the rows, the folder of
            the table and those of the command. The first process alone calls it.
    """

    catalogue: Catalogue[Config]
    run_type: RunType[Config]
    train: Callable[[Config, Path, Folders, Operation], Any]
    cost: Callable[[Config], Cost]
    step_seconds: Callable[[Config, int], tuple[float, float]]
    resized: Callable[[Config, int], Config]
    prepare_config: Callable[[Config, Path, Folders], Config] = lambda config, *folders: config
    report: Callable[[Sequence[Row[Config]], Path, Folders], Report] | None = None
