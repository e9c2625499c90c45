"""Command line: `python -m experiments.detection --help`."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jax
import tyro
from rich.console import Console

from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.data.prepared import DataError
from experiments.data.records import CorruptRecordError
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.datasets import Split, open_data
from experiments.detection.evaluation.results import write_results
from experiments.detection.prediction.predict import InputError, report
from experiments.detection.prediction.predict import predict as predict_files
from experiments.detection.presets import PRESETS, SCENES, TABLES, DetectionPreset
from experiments.detection.report import run_experiment
from experiments.detection.tables import dry_run as dry_run_table
from experiments.detection.tables import run_table
from experiments.detection.task import (
    BEST,
    TASK,
    detect,
    initial_state,
    make_evaluator,
    make_model,
    read_categories,
    train_run,
)
from experiments.engine.command_line import run_command
from experiments.engine.config import check
from experiments.engine.distributed import Distributed, is_primary, primary_first, start
from experiments.engine.parallel import check_batch_size
from experiments.engine.presets import subcommands
from experiments.engine.runs import load_run
from experiments.engine.settings import Operation

DEFAULT_DATA_DIR = Path("data")
DEFAULT_RUNS = Path("runs")
DEFAULT_OPERATION = Operation(checkpoint_every=1000, evaluate_every=0)
ALONE = Distributed()

if TYPE_CHECKING:
    Config = DetectionConfig
else:
    Config = subcommands(TASK, PRESETS)


def train(
    config: Config,
    output: Path,
    data_dir: Path = DEFAULT_DATA_DIR,
    cache: Path = DEFAULT_CACHE,
    operation: Operation = DEFAULT_OPERATION,
    distributed: Distributed = ALONE,
) -> None:
    """Trains a preset, any field of which can be changed.

    Args:
        config: of the run.
        output: folder of the run; a started run in it is continued.
        data_dir: folder of the tfds data sets.
        cache: folder that `python -m experiments.data.composed.debian --stamps` filled.
        operation: how the run is looked after.
        distributed: the other processes of the run, if any.
    """
    start(distributed)
    train_run(config, output, data_dir, operation, cache)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional],
    data_dir: Path = DEFAULT_DATA_DIR,
    cache: Path = DEFAULT_CACHE,
    split: Split = "validation",
    results: Path | None = None,
    checkpoint: Literal["best", "newest"] = "newest",
    batch_size: int = 8,
    max_unreadable_records: int = 0,
    distributed: Distributed = ALONE,
) -> None:
    """Prints COCO's average precision of a run, and writes its detections.

    Args:
        run: folder of the run.
        data_dir: folder of the tfds data sets.
        cache: folder that `python -m experiments.data.composed.debian --stamps` filled.
        split: of the images; those of test, which is COCO's test-dev, are for its server alone.
        results: folder for bbox.json and segm.json, as COCO's server takes them.
        checkpoint: the newest, or the one with the highest AP so far.
        batch_size: images at a time, over all processes and devices.
        max_unreadable_records: images that may be unreadable; one more is an error.
        distributed: the other processes, if any.
    """
    start(distributed)
    check(split != "test" or results is not None, "results", "given for the split test", None)
    best = BEST if checkpoint == "best" else None
    loaded = load_run(run, DetectionConfig, initial_state, TASK, best)
    check_batch_size(batch_size)
    config = dataclasses.replace(
        loaded.config, training=dataclasses.replace(loaded.config.training, batch_size=batch_size)
    )
    data = primary_first(lambda: open_data(config.data, data_dir, cache))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    evaluator = make_evaluator(config, data, max_unreadable_records, split)
    if split == "test":
        assert results is not None
        found = evaluator.results(state)
        if is_primary():
            write_results(results, found, config.model.masks)
        metrics: dict[str, float] = {}
    else:
        metrics = evaluator(state, results)
    if is_primary():
        for message in loaded.damaged:
            print(message, file=sys.stderr)
        print(f"step {loaded.step}, {len(data.source(split))} images of {split}:")
        for name, value in metrics.items():
            print(f"  {name} {100 * value:.1f} %" if "AP" in name else f"  {name} {value:g}")
        if results is not None:
            print(f"detections in {results}")


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
    output: Path = DEFAULT_RUNS / "detections",
    checkpoint: Literal["best", "newest"] = "newest",
) -> None:
    """Draws the boxes and masks of the objects in images, and writes them as JSON.

    Args:
        images: files that Pillow reads, of any size.
        run: folder of a trained run.
        output: folder for the drawings, of what has a score of 0.5 or more, and for
            detections.json, which has all.
        checkpoint: the newest, or the one with the highest AP so far.
    """
    check(bool(images), "images", "one or more", "none")
    best = BEST if checkpoint == "best" else None
    loaded = load_run(run, DetectionConfig, initial_state, TASK, best)
    for message in loaded.damaged:
        print(message, file=sys.stderr)
    categories = read_categories(run)
    # On the device once, rather than with every picture.
    state = jax.device_put({name: loaded.state[name] for name in ("params", "model_state")})
    model = make_model(loaded.config)
    infer = functools.partial(jax.jit(functools.partial(detect, model)), state)
    predictions = predict_files(images, output, infer, loaded.config.data, categories)
    report(predictions, dict(categories))


def scenes(
    scale: Literal["gpu", "cpu"] = "gpu",
    seeds: tuple[int, ...] = (0, 1, 2),
    output: Path | None = None,
    data_dir: Path = DEFAULT_DATA_DIR,
    cache: Path = DEFAULT_CACHE,
    operation: Operation = DEFAULT_OPERATION,
    distributed: Distributed = ALONE,
) -> None:
    """Trains Table 4 in small: four upsamplers in the FPN, each with several seeds.

    Args:
        scale: 6,000 steps on scenes of 640 pixels, or 1,500 on scenes of 160.
        seeds: of the runs.
        output: folder of the runs; by default runs/scenes-<scale>.
        data_dir: folder of the tfds data sets.
        cache: folder that `python -m experiments.data.composed.debian --stamps` filled.
        operation: how the runs are looked after.
        distributed: the other processes of the runs, if any.
    """
    start(distributed)
    output = output or DEFAULT_RUNS / f"scenes-{scale}"
    run_experiment(SCENES[scale], seeds, output, data_dir, operation, cache)


def _table(
    name: str,
    dry_run: bool = False,
    batch_size: int = 1,
    shorter: int = 800,
    longer: int = 1333,
    dtype: Literal["float32", "bfloat16"] = "float32",
    output: Path = DEFAULT_RUNS,
    backbones: Path = DEFAULT_RUNS,
    data_dir: Path = DEFAULT_DATA_DIR,
    operation: Operation = DEFAULT_OPERATION,
    distributed: Distributed = ALONE,
) -> None:
    """Trains and evaluates every row of the paper's table on COCO, or only says what each costs.

    Args:
        name: of the table.
        dry_run: builds every row's model, and prints parameters, FLOPs and step time.
        batch_size: images of a step in the dry run.
        shorter: side of the images in the dry run, in pixels.
        longer: likewise.
        dtype: of the computation in the dry run.
        output: folder of the runs; tables share those of equal rows.
        backbones: folder of the classification runs that pretrain the backbones, each under the
            name of its preset, such as table2-resnet50.
        data_dir: folder of the tfds data sets.
        operation: how the runs are looked after.
        distributed: the other processes of the runs, if any.
    """
    start(distributed)
    # A file has no width: there a row stays on a line.
    console = Console() if sys.stdout.isatty() else Console(width=180)
    if dry_run:
        rows = tuple(_of_size(row, shorter, longer, dtype) for row in TABLES[name])
        dry_run_table(console, name, rows, batch_size)
    else:
        run_table(name, TABLES[name], output, data_dir, backbones, operation)


def _of_size(
    row: DetectionPreset, shorter: int, longer: int, dtype: Literal["float32", "bfloat16"]
) -> DetectionPreset:
    data = dataclasses.replace(row.config.data, shorter=shorter, longer=longer)
    return dataclasses.replace(row, config=dataclasses.replace(row.config, data=data, dtype=dtype))


def main() -> None:
    """Runs a subcommand."""
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "evaluate": evaluate,
        "predict": predict,
        "scenes": scenes,
    }
    for name in TABLES:
        commands[name] = functools.partial(_table, name)
    run_command(TASK, commands, CorruptRecordError, DataError, InputError)


if __name__ == "__main__":
    main()
