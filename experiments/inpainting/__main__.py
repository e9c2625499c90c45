"""Command line: `python -m experiments.inpainting --help`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments.engine.command_line import run_command
from experiments.engine.commands import (
    ALONE,
    BARE,
    DATA,
    FOLDERS,
    Commands,
    task_commands,
)
from experiments.engine.distributed import Distributed, is_primary, primary_first, start
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import check_batch_size
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables import Spread, print_tables
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import make_evaluator
from experiments.inpainting.fill import variables_of
from experiments.inpainting.prediction.predict import predict_command
from experiments.inpainting.report.compare import compare as compare_runs
from experiments.inpainting.report.tables import bucket_table, metrics_table
from experiments.inpainting.spec import SPEC
from experiments.inpainting.task import RUNS
from experiments.inpainting.web.page import serve

EVALUATION = EvaluationConfig()


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    images: Path | None = None,
    folders: Annotated[DataFolders, BARE] = DATA,
    evaluation: Annotated[EvaluationConfig, BARE] = EVALUATION,
    distributed: Distributed = ALONE,
) -> None:
    """Prints the metrics of a run on its validation images, overall and by the hole's share.

    Args:
        run: folder of the run.
        images: a folder of images, in place of the run's own: those of its validation part.
        folders: where the data lie.
        evaluation: of which checkpoint, and how.
        distributed: the other processes, if any.
    """
    start(distributed)
    check_batch_size(evaluation.batch_size)
    loaded = RUNS.load(run, evaluation.checkpoint)
    config = loaded.config
    if images is not None:
        config = dataclasses.replace(config, data=config.data.with_images(images))
    data = primary_first(lambda: open_data(config.data, folders))
    evaluator = make_evaluator(config, data, evaluation)
    metrics = evaluator(variables_of(loaded.state))
    if is_primary():
        rows = {run.name: {name: Spread(value) for name, value in metrics.items()}}
        title = f"step {loaded.step}, {len(data.validation)} images"
        print_tables((metrics_table(title, rows), bucket_table("By the size of the hole", rows)))


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path = FOLDERS.runs / SPEC.name / "compare",
    examples: int = 5,
    folders: Annotated[DataFolders, BARE] = DATA,
    evaluation: Annotated[EvaluationConfig, BARE] = EVALUATION,
) -> None:
    """Puts runs side by side: a table as Table 10, and a figure as Fig. 8.

    Args:
        runs: folders of two or more runs, with one data set.
        output: folder of the table and the figure.
        examples: rows of the figure.
        folders: where the data lie.
        evaluation: of which checkpoints, and how.
    """
    compare_runs(runs, output, folders, examples, evaluation)


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(SPEC),
        "evaluate": evaluate,
        "predict": predict_command,
        "compare": compare,
        "serve": serve,
    }
    run_command(SPEC.name, commands)


if __name__ == "__main__":
    main()
