"""Command line: `python -m experiments.detection --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.detection.data.config import Split
from experiments.detection.presets import CATALOGUE
from experiments.engine.command_line import run_command
from experiments.engine.commands import (
    DATA,
    FOLDERS,
    SINGLE_PROCESS,
    WITHOUT_PREFIX,
    Commands,
    task_commands,
)
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.settings import CheckpointChoice, EvaluationConfig

if TYPE_CHECKING:
    from experiments.detection.configs import DetectionConfig
    from experiments.engine.tables.spec import TaskSpec

EVALUATION = EvaluationConfig()


def load_spec() -> "TaskSpec[DetectionConfig]":
    """Imports and returns the task's spec."""
    from experiments.detection.spec import SPEC

    return SPEC


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    split: Split = "validation",
    results: Path | None = None,
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
    distributed: Distributed = SINGLE_PROCESS,
) -> None:
    """Prints COCO's metrics of a run, and writes its detections.

    Args:
        run: folder of the run.
        split: split of the images. The split test is COCO's test-dev: only COCO's server can
            evaluate detections in it.
        results: folder for bbox.json and segm.json, in the format of COCO's server.
        folders: folders of the data.
        evaluation: settings of the evaluation.
        distributed: connection to the other processes, if there are any.
    """
    from experiments.detection.evaluate import evaluate as evaluate_run
    from experiments.engine.distributed import start

    start(distributed)
    evaluate_run(run, split, results, folders, evaluation)


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
    output: Path = FOLDERS.runs / CATALOGUE.task / "predictions",
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Draws the boxes and masks of the objects in images, and writes them as JSON.

    Args:
        images: image files that Pillow can read, of any size.
        run: folder of a trained run.
        output: folder for the drawings, which show the detections with a score of 0.5 or more, and
            for detections.json, which lists all detections.
        checkpoint: the newest checkpoint, or the best, which has the highest AP so far.
    """
    from experiments.detection.prediction.predict import print_predictions

    print_predictions(run, images, output, checkpoint)


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
