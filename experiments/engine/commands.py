"""The commands that every task has: `train`, and one for each of its tables.

Modules of the command line declare what it shows: options, presets, help texts. They import no
library that only the work needs. A command imports the module that does its work when it runs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments.engine.config import check
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders, Folders
from experiments.engine.presets import Catalogue, subcommands
from experiments.engine.settings import Dtype, Operation

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec

Commands = dict[str, Callable[..., None]]
LoadSpec = Callable[[], "TaskSpec[Any]"]

ALONE = Distributed()
DATA, FOLDERS = DataFolders(), Folders()

# Marks arguments whose fields are options without a prefix: `--runs`, not `--folders.runs`.
BARE: Any = tyro.conf.OmitArgPrefixes


def task_commands(catalogue: Catalogue[Any], load_spec: LoadSpec) -> Commands:
    """The commands of a task that need nothing of its own, by name.

    Args:
        catalogue: of the task.
        load_spec: imports the spec of the task, when a command runs.
    """
    commands = {"train": train_command(catalogue, load_spec)}
    for name in catalogue.experiments:
        commands[name] = table_command(catalogue, load_spec, name)
    return commands


def train_command(catalogue: Catalogue[Any], load_spec: LoadSpec) -> Callable[..., None]:
    """The command `train` of a task.

    Args:
        catalogue: of the task.
        load_spec: imports the spec of the task, when the command runs.
    """

    def train(
        config: Any,
        output: Path | None = None,
        folders: Annotated[Folders, BARE] = FOLDERS,
        operation: Operation = catalogue.operation,
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
        from experiments.engine.distributed import start
        from experiments.engine.tables.experiment import run_config

        start(distributed)
        run_config(load_spec(), config, output, folders, operation)

    train.__annotations__["config"] = subcommands(catalogue)
    return train


def table_command(catalogue: Catalogue[Any], load_spec: LoadSpec, name: str) -> Callable[..., None]:
    """The command that trains and evaluates the rows of a table, or prints what they cost.

    Args:
        catalogue: of the task.
        load_spec: imports the spec of the task, when the command runs.
        name: of the experiment in ``catalogue``.
    """
    experiment = catalogue.experiments[name]

    def table(
        dry_run: bool = False,
        time_steps: bool = False,
        batch_size: int = 1,
        shorter_side: int | None = None,
        dtype: Dtype | None = None,
        seeds: tuple[int, ...] = experiment.seeds,
        folders: Annotated[Folders, BARE] = FOLDERS,
        operation: Operation = experiment.operation or catalogue.operation,
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
        from experiments.engine.distributed import start

        start(distributed)
        if costs:
            from experiments.engine.tables.dry_run import dry_run as print_costs

            print_costs(
                load_spec(),
                name,
                time_steps=time_steps,
                batch_size=batch_size,
                shorter_side=shorter_side,
                dtype=dtype,
            )
        else:
            from experiments.engine.tables.experiment import run_experiment

            run_experiment(load_spec(), name, seeds, folders, operation)

    assert table.__doc__ is not None
    table.__doc__ = f"{experiment.title}. {table.__doc__}"
    return table


def _check_used(used: bool, name: str, given: str, got: object, default: object) -> None:
    """Refuses an option that would have no effect."""
    check(used or got == default, name, f"used with {given}: it has no effect otherwise", got)
