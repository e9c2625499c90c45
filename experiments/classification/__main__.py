"""Command line: `python -m experiments.classification --help`."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from experiments.classification.batches import open_data
from experiments.classification.configs import ClassificationConfig
from experiments.classification.convert import convert as convert_weights
from experiments.classification.predict import InputError
from experiments.classification.predict import predict as predict_files
from experiments.classification.presets import PRESETS, TABLES
from experiments.classification.tables import dry_run as dry_run_table
from experiments.classification.tables import run_table
from experiments.classification.task import BEST, initial_state, make_evaluator, train_run
from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.data.prepared import DataError
from experiments.data.records import CorruptRecordError
from experiments.engine.command_line import run_command
from experiments.engine.distributed import Distributed, is_primary, primary_first, start
from experiments.engine.parallel import check_batch_size
from experiments.engine.presets import subcommands
from experiments.engine.runs import load_run
from experiments.engine.settings import Operation
from experiments.models.torch_weights import WeightsError

TASK = "classification"
DEFAULT_DATA_DIR = Path("data")
DEFAULT_OPERATION = Operation(checkpoint_every=1000, evaluate_every=5000)
ALONE = Distributed()

if TYPE_CHECKING:
    Config = ClassificationConfig
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
    checkpoint: Literal["best", "newest"] = "best",
    batch_size: int = 64,
    max_unreadable_records: int = 100,
    distributed: Distributed = ALONE,
) -> None:
    """Prints top-1 and top-5 accuracy of a run on its validation images.

    Args:
        run: folder of the run.
        data_dir: folder of the tfds data sets.
        cache: folder that `python -m experiments.data.composed.debian --stamps` filled.
        checkpoint: the one with the highest top-1 accuracy so far, or the newest.
        batch_size: images at a time, over all processes and devices.
        max_unreadable_records: images that may be left out; one more is an error.
        distributed: the other processes, if any.
    """
    start(distributed)
    best = BEST if checkpoint == "best" else None
    loaded = load_run(run, ClassificationConfig, initial_state, TASK, best)
    check_batch_size(batch_size)
    config = dataclasses.replace(
        loaded.config, training=dataclasses.replace(loaded.config.training, batch_size=batch_size)
    )
    data = primary_first(lambda: open_data(config.data, data_dir, cache))
    state = {name: loaded.state[name] for name in ("params", "model_state")}
    metrics = make_evaluator(config, data, max_unreadable_records)(state)
    if is_primary():
        for message in loaded.damaged:
            print(message, file=sys.stderr)
        print(f"step {loaded.step}, {len(data.validation)} images:")
        for name, value in metrics.items():
            print(f"  {name} {100 * value:.2f} %" if "top" in name else f"  {name} {value:.4f}")


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    run: Path,
) -> None:
    """Prints the five likeliest classes of each image.

    Args:
        images: files that Pillow reads, of any size.
        run: folder of a trained run.
    """
    failed = False
    for path, result in predict_files(run, images):
        if isinstance(result, InputError):
            print(f"error: {result}", file=sys.stderr)
            failed = True
            continue
        print(path)
        for guess in result:
            print(f"  {guess.probability:7.2%}  {guess.name}")
    if failed:
        sys.exit(2)


def convert(
    config: Config,
    weights: Path,
    output: Path,
    keep: tuple[str, ...] = (),
) -> None:
    """Makes a run of a torchvision or timm ResNet, to evaluate, to predict with or to train on.

    Args:
        config: of the run; an ImageNet preset.
        weights: a state_dict as .safetensors, or as .pth, for which PyTorch must be installed.
        output: folder of the run.
        keep: parts of the network that the file lacks, which start from their initial values.
    """
    convert_weights(config, weights, output, keep)
    print(output)


def _table(
    name: str,
    dry_run: bool = False,
    batch_size: int = 8,
    dtype: Literal["float32", "bfloat16"] = "float32",
    output: Path | None = None,
    data_dir: Path = DEFAULT_DATA_DIR,
    operation: Operation = DEFAULT_OPERATION,
) -> None:
    """Trains and evaluates every row of the paper's table, or only says what each costs.

    Args:
        name: of the table.
        dry_run: builds every row's model, and prints parameters, FLOPs and step time.
        batch_size: images of a step in the dry run.
        dtype: of the computation in the dry run.
        output: folder of the runs; by default runs/<table>.
        data_dir: folder of the tfds data sets.
        operation: how the runs are looked after.
    """
    # A file has no width: there a row stays on a line.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if dry_run:
        rows = tuple(
            dataclasses.replace(row, config=dataclasses.replace(row.config, dtype=dtype))
            for row in TABLES[name]
        )
        dry_run_table(console, name, rows, batch_size)
    else:
        output = output or Path("runs") / name
        run_table(console, name, TABLES[name], output, data_dir, operation)


def main() -> None:
    """Runs a subcommand."""
    commands: dict[str, Callable[..., Any]] = {
        "train": train,
        "evaluate": evaluate,
        "predict": predict,
        "convert": convert,
    }
    for name in TABLES:
        commands[name] = functools.partial(_table, name)
    run_command(TASK, commands, CorruptRecordError, DataError, InputError, WeightsError)


if __name__ == "__main__":
    main()
