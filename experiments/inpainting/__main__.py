"""Command line: `python -m experiments.inpainting --help`."""

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
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.settings import CheckpointChoice, EvaluationConfig
from experiments.inpainting.presets import CATALOGUE
from experiments.kernel_studies.commands import MakeStudiedNetwork, study_commands

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec
    from experiments.inpainting.configs import InpaintingConfig

EVALUATION = EvaluationConfig()


def load_spec() -> "TaskSpec[InpaintingConfig]":
    """Imports and returns the task's spec."""
    from experiments.inpainting.spec import SPEC

    return SPEC


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    images: Path | None = None,
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
    distributed: Distributed = SINGLE_PROCESS,
) -> None:
    """Prints the metrics of a run on validation images, overall and by the size of the hole.

    Args:
        run: folder of the run.
        images: folder of images that replaces the run's dataset; the validation images among them
            are evaluated.
        folders: folders of the data.
        evaluation: settings of the evaluation.
        distributed: connection to the other processes, if there are any.
    """
    from experiments.engine.distributed import start
    from experiments.inpainting.evaluate import evaluate as evaluate_run

    start(distributed)
    evaluate_run(run, images, folders, evaluation)


def predict(
    source: Annotated[Path, tyro.conf.Positional],
    run: Path,
    mask: Path | None = None,
    box: tuple[int, int, int, int] | None = None,
    brush_seed: int | None = None,
    output: Path | None = None,
    working_side: int | None = None,
    full_size: bool = False,
    checkpoint: CheckpointChoice = "newest",
    maps: bool = False,
) -> None:
    """Fills the hole in an image, or the holes in all images of a folder.

    The hole is given by a mask, a box or the seed of random brush strokes.

    Args:
        source: image file that Pillow can read, of any size, or folder of such files.
        run: folder of a trained run.
        mask: image file of the same size, opaque, and white (above 127 of 255) in the hole. If the
            source is a folder: folder of masks, each with the same stem as its image.
        box: left, top, width and height of the hole, in pixels.
        brush_seed: seed of random brush strokes; each image of a folder has its own strokes.
        output: PNG file of the filled image, by default SOURCE-filled.png. If the source is a
            folder: folder of the filled images, by default SOURCE-filled.
        working_side: shorter side, in pixels, to which larger images are scaled down before they
            are filled; the fill is scaled up again. By default the side of the training images,
            because networks fill larger images worse.
        full_size: whether images are filled at their own size instead, tile by tile.
        checkpoint: the newest checkpoint, or the best, which has the highest PSNR so far.
        maps: also write figures of which pixels a pixel is reassembled from, beside each filled
            image NAME.png: NAME-maps-down.png from the input to the network's coarsest map, and
            NAME-maps-up.png from there to the finest map. They need an image that the network reads
            in one piece.
    """
    from experiments.inpainting.prediction.holes import HoleChoice
    from experiments.inpainting.prediction.predict import print_predictions

    holes = HoleChoice(mask, box, brush_seed)
    print_predictions(run, source, holes, output, working_side, full_size, checkpoint, maps)


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path = FOLDERS.runs / CATALOGUE.task / "compare",
    examples: int = 5,
    folders: Annotated[DataFolders, WITHOUT_PREFIX] = DATA,
    evaluation: Annotated[EvaluationConfig, WITHOUT_PREFIX] = EVALUATION,
) -> None:
    """Compares runs in a table like Table 10, and in a figure like Fig. 8.

    Args:
        runs: folders of two or more runs on the same dataset.
        output: folder for the table and the figure.
        examples: number of images in the figure.
        folders: folders of the data.
        evaluation: settings of the evaluation.
    """
    from experiments.inpainting.report.compare import compare as compare_runs

    compare_runs(runs, output, folders, examples, evaluation)


def serve(
    baseline: Path,
    carafe: Path,
    host: str = "127.0.0.1",
    port: int = 7860,
    working_side: int | None = None,
    full_size: bool = False,
    checkpoint: CheckpointChoice = "newest",
) -> None:
    """Serves a web page on which two models fill a hole that the visitor paints, until stopped.

    Args:
        baseline: folder of a trained run without CARAFE++.
        carafe: folder of a trained run with CARAFE++.
        host: host name or address of the server; by default only this machine can open the page.
        port: port of the server; 0 takes the first free port from 7860 on.
        working_side: shorter side, in pixels, to which larger images are scaled down before they
            are filled. By default the side of each run's training images.
        full_size: whether images are filled at their own size instead.
        checkpoint: the newest checkpoint of each run, or the best, which has the highest PSNR so
            far.
    """
    from experiments.inpainting.web.page import serve as serve_page

    serve_page(baseline, carafe, host, port, working_side, full_size, checkpoint)


@dataclasses.dataclass(frozen=True)
class StudiedImages:
    """Images on which kernels are studied.

    Attributes:
        images: folder of images that replaces the run's dataset; the validation images among them
            are evaluated.
    """

    images: Path | None = None


def load_studied_network() -> MakeStudiedNetwork:
    """Imports and returns the function that makes the network and images of a study of kernels."""
    from experiments.inpainting.kernel_studies import studied_network

    return studied_network


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        **study_commands(CATALOGUE, load_spec, load_studied_network, EVALUATION, StudiedImages()),
        "compare": compare,
        "serve": serve,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
