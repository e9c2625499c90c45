"""Command line: `python -m experiments.detection --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.detection.conversion.libraries import Library, Names
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


def convert(
    library: Annotated[Library | None, tyro.conf.arg(name="from")] = None,
    weights: Path | None = None,
    to: Library | None = None,
    run: Path | None = None,
    output: Path | None = None,
    names: Names | None = None,
    norm_epsilon: float | None = None,
) -> None:
    """Converts a detector of another library to a run, or a run to a file of another library.

    `convert --weights FILE --output RUN` reads Faster R-CNN and Mask R-CNN with FPN, or FPN_CARAFE,
    of COCO's classes. The run can be evaluated, predict, and be trained further.
    `convert --to torchvision --run RUN --output FILE` writes a file of safetensors.

    Args:
        library: library that wrote the file of weights; by default it is recognised.
        weights: file of weights, from safetensors or torch.save, or a pickle of detectron2.
        to: library for which a file is written.
        run: folder of the run whose weights are written.
        output: folder of the new run, or the new file.
        names: torchvision's names in the new file, "old" for those before version 0.13; by default
            those of the file that the run was converted from.
        norm_epsilon: number that the normalisation of the backbone adds to variances; the default
            is the library's.
    """
    from experiments.detection.conversion.command import print_conversion

    print_conversion(library, weights, to, run, output, names, norm_epsilon)


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        "convert": convert,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
