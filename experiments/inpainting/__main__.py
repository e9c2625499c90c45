"""Command line: `python -m experiments.inpainting --help`."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.data.pictures import PictureError
from experiments.data.prepared import DataError
from experiments.data.records import CorruptRecordError
from experiments.engine.command_line import run_command
from experiments.engine.config import check
from experiments.engine.distributed import Distributed, is_primary, primary_first, start
from experiments.engine.parallel import check_batch_size
from experiments.engine.presets import subcommands
from experiments.engine.runs import load_run
from experiments.engine.settings import Operation
from experiments.engine.tables import Spread, print_tables
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import make_evaluator
from experiments.inpainting.fill import variables_of
from experiments.inpainting.prediction.holes import InputError
from experiments.inpainting.prediction.predict import predict_command
from experiments.inpainting.presets import CPU, DEMO, GPU, PRESETS, TABLE_10
from experiments.inpainting.report.compare import compare as compare_runs
from experiments.inpainting.report.experiment import run_experiment
from experiments.inpainting.report.tables import bucket_table, metrics_table
from experiments.inpainting.task import BEST, TASK, initial_state, train_run
from experiments.inpainting.web.page import ServeError, serve

DEFAULT_DATA_DIR = Path("data")
DEFAULT_OPERATION = Operation(checkpoint_every=1000, evaluate_every=5000)
DEMO_OPERATION = Operation(checkpoint_every=100)
ALONE = Distributed()
SCALES = {"paper": TABLE_10, "gpu": GPU, "cpu": CPU}

if TYPE_CHECKING:
    Config = InpaintingConfig
else:
    Config = subcommands(TASK, PRESETS)


def demo(
    output: Path = Path("runs/demo"),
    data_dir: Path = DEFAULT_DATA_DIR,
    operation: Operation = DEMO_OPERATION,
) -> None:
    """Trains the smallest preset without and with CARAFE++, and shows what each fills in.

    Args:
        output: folder of the results; what is done in it is not done again.
        data_dir: folder of the tfds data sets.
        operation: how the runs are looked after.
    """
    run_experiment("Demo", DEMO, (0,), output, data_dir, operation)


def table10(
    scale: Literal["paper", "gpu", "cpu"] = "paper",
    seeds: tuple[int, ...] = (0, 1, 2),
    output: Path | None = None,
    data_dir: Path = DEFAULT_DATA_DIR,
    photographs: Path = DEFAULT_CACHE,
    operation: Operation = DEFAULT_OPERATION,
) -> None:
    """Trains and evaluates the rows of Table 10, each with several seeds.

    Args:
        scale: "paper": on Places; "gpu": on 71 photographs, with widened baselines besides; "cpu":
            on seven photographs, in small.
        seeds: of the runs.
        output: folder of the results, by default runs/table10-SCALE; what is done in it is not
            done again.
        data_dir: folder of the tfds data sets.
        photographs: folder that `python -m experiments.data.composed.debian` filled.
        operation: how the runs are looked after.
    """
    output = output or Path(f"runs/table10-{scale}")
    title = f"Table 10 ({scale})"
    run_experiment(title, SCALES[scale], seeds, output, data_dir, operation, photographs)


def train(
    config: Config,
    output: Path,
    images: Path | None = None,
    data_dir: Path = DEFAULT_DATA_DIR,
    photographs: Path = DEFAULT_CACHE,
    operation: Operation = DEFAULT_OPERATION,
    distributed: Distributed = ALONE,
) -> None:
    """Trains a preset, any field of which can be changed.

    Args:
        config: of the run.
        output: folder of the run; a started run in it is continued.
        images: a folder of images to train on, in place of the preset's data set.
        data_dir: folder of the tfds data sets.
        photographs: folder that `python -m experiments.data.composed.debian` filled.
        operation: how the run is looked after.
        distributed: the other processes of the run, if any.
    """
    start(distributed)
    if images is not None:
        config = dataclasses.replace(config, data=config.data.with_images(images))
    train_run(config, output, data_dir, operation, photographs)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    images: Path | None = None,
    data_dir: Path = DEFAULT_DATA_DIR,
    photographs: Path = DEFAULT_CACHE,
    checkpoint: Literal["best", "newest"] = "newest",
    batch_size: int = 8,
    max_unreadable_records: int = 100,
    distributed: Distributed = ALONE,
) -> None:
    """Prints the metrics of a run on its validation images, overall and by the hole's share.

    Args:
        run: folder of the run.
        images: a folder of images, in place of the run's own: those of its validation part.
        data_dir: folder of the tfds data sets.
        photographs: folder that `python -m experiments.data.composed.debian` filled.
        checkpoint: the newest, or the one with the highest PSNR of the image.
        batch_size: images at a time, over all processes and devices.
        max_unreadable_records: images that may be left out; one more is an error.
        distributed: the other processes, if any.
    """
    start(distributed)
    best = BEST if checkpoint == "best" else None
    loaded = load_run(run, InpaintingConfig, initial_state, TASK, best)
    check_batch_size(batch_size)
    check(
        max_unreadable_records >= 0, "max_unreadable_records", "at least 0", max_unreadable_records
    )
    config = dataclasses.replace(
        loaded.config, training=dataclasses.replace(loaded.config.training, batch_size=batch_size)
    )
    if images is not None:
        config = dataclasses.replace(config, data=config.data.with_images(images))
    data = primary_first(lambda: open_data(config.data, data_dir, photographs))
    metrics = make_evaluator(config, data, max_unreadable_records)(variables_of(loaded.state))
    if is_primary():
        for message in loaded.damaged:
            print(message, file=sys.stderr)
        rows = {run.name: {name: Spread(value) for name, value in metrics.items()}}
        title = f"step {loaded.step}, {len(data.validation)} images"
        print_tables((metrics_table(title, rows), bucket_table("By the size of the hole", rows)))


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    output: Path = Path("runs/compare"),
    examples: int = 5,
    data_dir: Path = DEFAULT_DATA_DIR,
    photographs: Path = DEFAULT_CACHE,
) -> None:
    """Puts runs side by side: a table as Table 10, and a figure as Fig. 8.

    Args:
        runs: folders of two or more runs, with one data set.
        output: folder of the table and the figure.
        examples: rows of the figure.
        data_dir: folder of the tfds data sets.
        photographs: folder that `python -m experiments.data.composed.debian` filled.
    """
    compare_runs(runs, output, data_dir, photographs, examples)


def main() -> None:
    """Runs a subcommand."""
    commands: dict[str, Callable[..., Any]] = {
        "demo": demo,
        "train": train,
        "evaluate": evaluate,
        "predict": predict_command,
        "compare": compare,
        "table10": table10,
        "serve": serve,
    }
    run_command(TASK, commands, CorruptRecordError, DataError, InputError, PictureError, ServeError)


if __name__ == "__main__":
    main()
