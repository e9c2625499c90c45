"""Command line: `python -m experiments.segmentation --help`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.engine.command_line import run_command
from experiments.engine.commands import (
    DATA,
    FOLDERS,
    SINGLE_PROCESS,
    WITHOUT_PREFIX,
    Commands,
    task_commands,
)
from experiments.engine.config import check
from experiments.engine.conversion import FROM, Export, check_left_out, requested_export
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.settings import CheckpointChoice, EvaluationConfig
from experiments.kernel_studies.commands import MakeStudiedNetwork, study_commands
from experiments.segmentation.conversion.library import Library
from experiments.segmentation.data.config import Split
from experiments.segmentation.presets import CATALOGUE

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec
    from experiments.segmentation.configs import SegmentationConfig

EVALUATION = EvaluationConfig()
SINGLE_SCALE = (1.0,)


def load_spec() -> "TaskSpec[SegmentationConfig]":
    """Imports and returns the task's spec."""
    from experiments.segmentation.spec import SPEC

    return SPEC


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    split: Split = "validation",
    scales: tuple[float, ...] = SINGLE_SCALE,
    flip: bool = False,
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
    distributed: Distributed = SINGLE_PROCESS,
) -> None:
    """Prints mean IoU and pixel accuracy of a run, and the IoU of each class.

    Args:
        run: folder of the run.
        split: split whose images are evaluated.
        scales: factors of the size at which images are segmented; the probabilities of all sizes
            are averaged. The paper uses one size.
        flip: average the probabilities of the mirrored images as well.
        folders: folders of the data.
        evaluation: settings of the evaluation.
        distributed: connection to the other processes, if there are any.
    """
    from experiments.engine.distributed import start
    from experiments.segmentation.evaluate import evaluate as evaluate_run

    start(distributed)
    evaluate_run(run, split, scales, flip, folders, evaluation)


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
    output: Path = FOLDERS.runs / CATALOGUE.task / "predictions",
    checkpoint: CheckpointChoice = "newest",
    scales: tuple[float, ...] = SINGLE_SCALE,
    flip: bool = False,
    maps: bool = False,
) -> None:
    """Predicts the class of each pixel, and writes a drawing and a label map of each image.

    Args:
        images: image files that Pillow can read, of any size.
        run: folder of a trained run.
        output: folder for the drawing NAME.png and the label map NAME-labels.png of each image.
        checkpoint: the newest checkpoint, or the best, which has the highest mIoU so far.
        scales: factors of the size at which images are segmented; the probabilities of all sizes
            are averaged.
        flip: average the probabilities of the mirrored images as well.
        maps: also draw from which pixels features are reassembled: NAME-maps-up.png in the top-down
            pathway of UperNet (Fig. 9 a), and NAME-maps-down.png in a backbone with CARAFE++
            (Fig. 9 b). They show the first of the scales.
    """
    from experiments.segmentation.prediction.predict import print_predictions

    print_predictions(run, images, output, checkpoint, scales, flip, maps)


def own_region(
    run: Annotated[Path, tyro.conf.Positional],
    split: Split = "validation",
    images: int = 100,
    output: Path = FOLDERS.runs / CATALOGUE.task / "own-region",
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Measures which share of a pixel's source weight lies in the region of the pixel's own class.

    The kernels of CARAFE++ in UperNet's top-down pathway and in the backbone are compared with
    fixed kernels, on the labelled regions of images.

    Args:
        run: folder of a run with CARAFE++ in UperNet's top-down pathway or in its backbone.
        split: split of the images.
        images: largest number of images, which are evenly spread over the split.
        output: folder for results.json and table.md.
        folders: folders of the data.
        checkpoint: the newest checkpoint, or the best, which has the highest mIoU so far.
    """
    from experiments.segmentation.own_region import measure_run

    measure_run(run, output, split, images, folders, checkpoint)


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path = FOLDERS.runs / CATALOGUE.task / "compare",
    examples: int = 5,
    images: tuple[Path, ...] = (),
    scales: tuple[float, ...] = SINGLE_SCALE,
    flip: bool = False,
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
) -> None:
    """Compares runs in a table, and in a figure like Fig. 7.

    Args:
        runs: folders of two or more runs on the same dataset.
        output: folder for the table and the figure.
        examples: number of validation images in the figure.
        images: further images for the figure, without ground truth; files that Pillow can read.
        scales: factors of the size at which images are segmented; the probabilities of all sizes
            are averaged.
        flip: average the probabilities of the mirrored images as well.
        folders: folders of the data.
        evaluation: settings of the evaluation.
    """
    from experiments.segmentation.prediction.compare import compare as compare_runs

    compare_runs(runs, output, folders, examples, evaluation, images, scales, flip)


def convert(
    weights: tuple[Path, ...] = (),
    library: Annotated[Library | None, FROM] = None,
    to: Library | None = None,
    run: Path | None = None,
    output: tuple[Path, ...] = (),
    checkpoint: CheckpointChoice | None = None,
) -> None:
    """Converts a public UperNet or PSPNet to a run, or a run to such a network.

    `convert --weights FILES --output RUN` makes a run from a network that was trained on ADE20K.
    `convert --to LIBRARY --run RUN --output FILES` writes the network of a run.

    Args:
        weights: files of a state_dict: one of mmseg, or the encoder's and the decoder's of
            CSAILVision's semantic-segmentation-pytorch.
        library: library that wrote the weights. The default is to recognise it.
        to: library for which the network of a run is written.
        run: folder of the run whose network is written.
        output: folder of the new run; or the new file, for CSAILVision the new files of the encoder
            and of the decoder.
        checkpoint: checkpoint that is written: the newest, which is the default, or the best, which
            has the highest mIoU so far.
    """
    export: Export[Library] | None = requested_export(bool(weights), library, to, run)
    if export is None:
        check_left_out("--weights", checkpoint=checkpoint)
        expected = "the folder of the new run"
        check(len(output) == 1, "output", expected, [*map(str, output)])
    else:
        check(bool(output), "output", "one or more new files", [*map(str, output)])

    from experiments.engine.text import printable
    from experiments.segmentation.conversion import convert as conversion

    if export is None:
        unused = conversion.convert(weights, output[0], library)
        print(printable(output[0]), *(f"not used: {each}" for each in unused), sep="\n")
    else:
        conversion.export(export.run, export.library, output, checkpoint or "newest")
        print(*map(printable, output), sep="\n")


@dataclasses.dataclass(frozen=True)
class StudiedImages:
    """Images on which kernels are studied.

    Attributes:
        split: split of the images.
    """

    split: Split = "validation"


def load_studied_network() -> MakeStudiedNetwork:
    """Imports and returns the function that makes the network and images of a study of kernels."""
    from experiments.segmentation.kernel_studies import studied_network

    return studied_network


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        **study_commands(CATALOGUE, load_spec, load_studied_network, EVALUATION, StudiedImages()),
        "own-region": own_region,
        "compare": compare,
        "convert": convert,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
