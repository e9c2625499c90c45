"""The commands that every task has: `train`, and one command for each table.

The modules of the command line declare options, presets and help texts. They do not import the
libraries that do the work. A command imports the module that does its work when it runs.
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

SINGLE_PROCESS = Distributed()
DATA, FOLDERS = DataFolders(), Folders()

# Makes the fields of an argument options without a prefix: `--runs`, not `--folders.runs`.
WITHOUT_PREFIX: Any = tyro.conf.OmitArgPrefixes


def task_commands(catalogue: Catalogue[Any], load_spec: LoadSpec) -> Commands:
    """Returns the commands that are the same for every task, by name.

    Args:
        catalogue: catalogue of the task.
        load_spec: function that imports and returns the spec of the task; called when a command
            runs.
    """
    commands = {"train": train_command(catalogue, load_spec)}
    for name in catalogue.experiments:
        commands[name] = table_command(catalogue, load_spec, name)
    return commands


def train_command(catalogue: Catalogue[Any], load_spec: LoadSpec) -> Callable[..., None]:
    """Returns the command `train` of a task.

    Args:
        catalogue: catalogue of the task.
        load_spec: function that imports and returns the spec of the task; called when the command
            runs.
    """

    def train(
        config: Any,
        output: Path | None = None,
        folders: Annotated[Folders, WITHOUT_PREFIX] = FOLDERS,
        operation: Operation = catalogue.operation,
        distributed: Distributed = SINGLE_PROCESS,
    ) -> None:
        """Trains a preset; any of its fields can be changed.

        Args:
            config: config of the run.
            output: folder of the run; a run that was started in it is continued. The default is
                RUNS/TASK/PRESET-seedN; an output is required if a field other than the seed is
                changed.
            folders: folders of runs and data.
            operation: settings of logging, checkpoints and evaluation of the run.
            distributed: connection to the other processes of the run, if there are any.
        """
        from experiments.engine.distributed import start
        from experiments.engine.tables.experiment import run_config

        start(distributed)
        run_config(load_spec(), config, output, folders, operation)

    train.__annotations__["config"] = subcommands(catalogue)
    return train


def table_command(catalogue: Catalogue[Any], load_spec: LoadSpec, name: str) -> Callable[..., None]:
    """Returns the command that trains and evaluates the rows of a table, or prints their costs.

    Args:
        catalogue: catalogue of the task.
        load_spec: function that imports and returns the spec of the task; called when the command
            runs.
        name: name of the experiment in ``catalogue``.
    """
    experiment = catalogue.experiments[name]

    def table(
        dry_run: bool = False,
        time_steps: bool = False,
        batch_size: int = 1,
        shorter_side: int | None = None,
        dtype: Dtype | None = None,
        seeds: tuple[int, ...] = experiment.seeds,
        folders: Annotated[Folders, WITHOUT_PREFIX] = FOLDERS,
        operation: Operation = experiment.operation or catalogue.operation,
        distributed: Distributed = SINGLE_PROCESS,
    ) -> None:
        """Trains and evaluates every row, or prints the cost of each.

        Args:
            dry_run: print the parameters, and the FLOPs for one image, of the model of every row;
                train nothing.
            time_steps: also print the time of a training step and of an inference, on random
                images; compiling both takes minutes for each row.
            batch_size: number of images in a timed step.
            shorter_side: shorter side of the images for which costs are printed, in pixels; the
                default is the size of each preset.
            dtype: dtype of the computation of a timed step; the default is the preset's.
            seeds: seeds of the runs; the table keeps other seeds that an earlier call finished.
            folders: folders of runs and data.
            operation: settings of logging, checkpoints and evaluation of the runs.
            distributed: connection to the other processes of the runs, if there are any.
        """
        costs = dry_run or time_steps
        _check_used(time_steps, "batch_size", "time_steps", batch_size, 1)
        _check_used(time_steps, "dtype", "time_steps", dtype, None)
        _check_used(costs, "shorter_side", "dry_run or time_steps", shorter_side, None)
        without = "neither dry_run nor time_steps"
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
    """Rejects an option that would have no effect."""
    check(used or got == default, name, f"used with {given}: it has no effect otherwise", got)
