"""The commands that every task has: `train`, and one for each of its tables."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.engine.config import check
from experiments.engine.distributed import Distributed, start
from experiments.engine.dry_run import dry_run as print_costs
from experiments.engine.experiment import run_experiment
from experiments.engine.folders import DataFolders, Folders
from experiments.engine.presets import subcommands
from experiments.engine.runs import run_folder
from experiments.engine.settings import Dtype, Operation
from experiments.engine.spec import TaskSpec

Commands = dict[str, Callable[..., None]]

ALONE = Distributed()
DATA, FOLDERS = DataFolders(), Folders()

# Marks arguments whose fields are options without a prefix: `--runs`, not `--folders.runs`.
BARE: Any = tyro.conf.OmitArgPrefixes


def task_commands(spec: TaskSpec[Any]) -> Commands:
    """The commands of a task that need nothing of its own, by name.

    Args:
        spec: of the task.
    """
    commands = {"train": train_command(spec)}
    for name in spec.experiments:
        commands[name] = table_command(spec, name)
    return commands


def train_command(spec: TaskSpec[Any]) -> Callable[..., None]:
    """The command `train` of a task."""

    def train(
        config: Any,
        output: Path | None = None,
        folders: Annotated[Folders, BARE] = FOLDERS,
        operation: Operation = spec.operation,
        distributed: Distributed = ALONE,
    ) -> None:
        """Trains a preset, any field of which can be changed.

        Args:
            config: of the run.
            output: folder of the run, where a started run is continued. By default
                RUNS/TASK/PRESET-seedN; it must be given if more than the seed is changed.
            folders: where runs and data lie.
            operation: how the run is logged, saved and evaluated.
            distributed: the other processes of the run, if any.
        """
        start(distributed)
        output = output or run_folder(config, spec.presets, folders.runs, spec.name)
        spec.train(spec.prepare_config(config, output, folders), output, folders, operation)

    train.__annotations__["config"] = subcommands(spec.name, spec.presets, spec.metrics)
    return train


def table_command(spec: TaskSpec[Any], name: str) -> Callable[..., None]:
    """The command that trains and evaluates the rows of a table, or prints what they cost.

    Args:
        spec: of the task.
        name: of the experiment in ``spec``.
    """
    experiment = spec.experiments[name]

    def table(
        dry_run: bool = False,
        time_steps: bool = False,
        batch_size: int = 1,
        shorter_side: int | None = None,
        dtype: Dtype | None = None,
        seeds: tuple[int, ...] = experiment.seeds,
        folders: Annotated[Folders, BARE] = FOLDERS,
        operation: Operation = experiment.operation or spec.operation,
        distributed: Distributed = ALONE,
    ) -> None:
        """Trains and evaluates every row, or prints what each costs.

        Args:
            dry_run: print parameters and FLOPs of every row's model on an image, and train nothing.
            time_steps: print also how long a training step and an inference take, on random images;
                this compiles both, minutes a row.
            batch_size: images of a timed step.
            shorter_side: of the images whose cost is printed, in pixels; by default the presets'.
            dtype: of the computation of a timed step; by default the presets'.
            seeds: of the runs; seeds that an earlier call has finished stay in the table.
            folders: where runs and data lie.
            operation: how the runs are logged, saved and evaluated.
            distributed: the other processes of the runs, if any.
        """
        costs = dry_run or time_steps
        _check_used(time_steps, "batch_size", "time_steps", batch_size, 1)
        _check_used(time_steps, "dtype", "time_steps", dtype, None)
        _check_used(costs, "shorter_side", "dry_run or time_steps", shorter_side, None)
        without = "dry_run and time_steps left out"
        _check_used(not costs, "seeds", without, seeds, experiment.seeds)
        start(distributed)
        if costs:
            print_costs(
                spec,
                name,
                time_steps=time_steps,
                batch_size=batch_size,
                shorter_side=shorter_side,
                dtype=dtype,
            )
        else:
            run_experiment(spec, name, seeds, folders, operation)

    assert table.__doc__ is not None
    table.__doc__ = f"{experiment.title}. {table.__doc__}"
    return table


def _check_used(used: bool, name: str, given: str, got: object, default: object) -> None:
    """Refuses an option that would have no effect."""
    check(used or got == default, name, f"used with {given}: it has no effect otherwise", got)
