"""Command line: `python -m experiments.inpainting --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from experiments.engine.command_line import run_command
from experiments.engine.commands import ALONE, BARE, DATA, FOLDERS, Commands, task_commands
from experiments.engine.distributed_config import Distributed
from experiments.engine.folders import DataFolders
from experiments.engine.settings import CheckpointChoice, EvaluationConfig
from experiments.inpainting.presets import CATALOGUE

if TYPE_CHECKING:
    from experiments.engine.tables.spec import TaskSpec
    from experiments.inpainting.configs import InpaintingConfig

EVALUATION = EvaluationConfig()


def load_spec() -> "TaskSpec[InpaintingConfig]":
    """Imports the spec of the task."""
    from experiments.inpainting.spec import SPEC

    return SPEC


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
) -> None:
    """Fills the hole of a picture, or those of all pictures in a folder.

    The hole is given by a mask, a box or the seed of a brush.

    Args:
        source: a file that Pillow reads, of any size, or a folder of such files.
        run: folder of a trained run.
        mask: an image file of the same size, white (over 127 of 255) in the hole and opaque
            everywhere; or a folder that holds for each picture a mask of the same stem.
        box: the hole's left, top, width and height, in pixels.
        brush_seed: of random brush strokes; in a folder each picture has its own.
        output: the PNG to write, by default SOURCE-filled.png; for a folder the folder to write
            to, by default SOURCE-filled.
        working_side: the shorter side, in pixels, that larger pictures are scaled down to; the
            fill is scaled back into the hole. By default the side of the images that the run was
            trained on, beyond which networks fill worse.
        full_size: fills pictures at their own size instead, tile by tile.
        checkpoint: the newest, or the one with the highest PSNR so far.
    """
    from experiments.inpainting.prediction.holes import HoleChoice
    from experiments.inpainting.prediction.predict import print_predictions

    holes = HoleChoice(mask, box, brush_seed)
    print_predictions(run, source, holes, output, working_side, full_size, checkpoint)


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path = FOLDERS.runs / CATALOGUE.task / "compare",
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
    """Serves a page to drop a picture, paint a hole and see two models fill it, until stopped.

    Args:
        baseline: folder of a trained run.
        carafe: folder of a trained run with CARAFE++.
        host: name or address to listen at; by default only this machine can open the page.
        port: port to listen at; 0 takes the first free one from 7860 on.
        working_side: pictures whose shorter side is longer are filled at this size, in pixels; by
            default at that of the images that the run was trained on.
        full_size: fills pictures at their own size instead.
        checkpoint: the newest of each run, or the one with the highest PSNR so far.
    """
    from experiments.inpainting.web.page import serve as serve_page

    serve_page(baseline, carafe, host, port, working_side, full_size, checkpoint)


def main() -> None:
    """Runs a subcommand."""
    commands: Commands = {
        **task_commands(CATALOGUE, load_spec),
        "evaluate": evaluate,
        "predict": predict,
        "compare": compare,
        "serve": serve,
    }
    run_command(CATALOGUE.task, commands)


if __name__ == "__main__":
    main()
