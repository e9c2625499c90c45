"""Command line: `python -m experiments.detection --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.detection.conventions import Style
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
from experiments.engine.conversion import FROM, Export, check_left_out, given, requested_export
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
    maps: bool = False,
    baseline: Path | None = None,
) -> None:
    """Draws the boxes and masks of the objects in images, and writes them as JSON.

    Args:
        images: image files that Pillow can read, of any size.
        run: folder of a trained run.
        output: folder for the drawings, which show the detections with a score of 0.5 or more, and
            for detections.json, which lists all detections.
        checkpoint: the newest checkpoint, or the best, which has the highest AP so far.
        maps: also draw from which pixels features are reassembled: NAME-maps-up.png in the feature
            pyramid (Fig. 9 a), NAME-maps-down.png in a backbone with CARAFE++ (Fig. 9 b), and
            NAME-maps-pyramid.png, the levels of the feature pyramid (Fig. 1).
        baseline: folder of a run whose feature pyramid is drawn on the left of this run's; used
            with maps.
    """
    from experiments.detection.prediction.predict import print_predictions

    print_predictions(run, images, output, checkpoint, maps, baseline)


def own_object(
    run: Annotated[Path, tyro.conf.Positional],
    split: Split = "validation",
    images: int | None = None,
    output: Path = FOLDERS.runs / CATALOGUE.task / "own-object",
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
) -> None:
    """Measures which share of a pixel's source weight lies on the pixel's own object.

    The kernels of CARAFE++ in the feature pyramid and in the backbone are compared with fixed
    kernels, on objects with ground-truth masks.

    Args:
        run: folder of a run with CARAFE++ in its feature pyramid or its backbone.
        split: split of the images, train or validation.
        images: number of images, the first of the split; the default is all.
        output: folder for results.json and table.md.
        folders: folders of the data.
        evaluation: choice of the checkpoint, batch size and workers.
    """
    from experiments.detection.own_object import measure_run

    measure_run(run, output, split, images, folders, evaluation)


def convert(
    weights: Path | None = None,
    library: Annotated[Library | None, FROM] = None,
    norm_epsilon: float | None = None,
    keep: tuple[str, ...] = (),
    style: Style | None = None,
    to: Library | None = None,
    run: Path | None = None,
    names: Names | None = None,
    checkpoint: CheckpointChoice | None = None,
    output: Path | None = None,
) -> None:
    """Converts a detector of another library to a run, or a run to a file of another library.

    `convert --weights FILE --output RUN` reads a Faster R-CNN or Mask R-CNN of COCO with FPN or
    FPN_CARAFE. The run can be evaluated, used for predictions, and trained further.
    `convert --to LIBRARY --run RUN --output FILE` writes the network of a run.

    Args:
        weights: file of weights, from safetensors or torch.save, or a pickle of detectron2.
        library: library that wrote the weights; by default it is recognised.
        norm_epsilon: number that normalisation in the backbone adds to variances; the default is
            the library's.
        keep: parts of the network that the file lacks; they keep their initial values.
        style: style of the backbone in a file of mmdet: "caffe" for models with "caffe" in their
            names, which read BGR images and have the stride in the first 1x1 convolution of a
            bottleneck. The arrays do not determine it; the default is "pytorch".
        to: library for which the network of a run is written.
        run: folder of the run whose network is written.
        names: torchvision's names in the new file, "old" for those before version 0.13; the default
            is those of the file that the run was converted from.
        checkpoint: checkpoint that is written: the newest, which is the default, or the one with
            the highest AP.
        output: folder of the new run, or the new file.
    """
    export: Export[Library] | None = requested_export(weights is not None, library, to, run)
    if to != "torchvision":
        check_left_out(f"--to {to}" if to else "--weights", names=names)
    if export is None:
        check_left_out("--weights", checkpoint=checkpoint)
    else:
        check_left_out("--to", norm_epsilon=norm_epsilon, keep=keep, style=style)
    path = given("output", output, "the new file" if export else "the folder of the new run")

    from experiments.detection.conversion.command import print_file, print_run

    if export is not None:
        print_file(export.run, path, export.library, names, checkpoint or "newest")
    else:
        print_run(given("weights", weights, "a file"), path, library, norm_epsilon, keep, style)


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        "own-object": own_object,
        "convert": convert,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
