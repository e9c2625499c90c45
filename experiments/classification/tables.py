"""The paper's tables: what their rows cost, and what they reach."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.classification.configs import ClassificationConfig
from experiments.classification.presets import ClassificationPreset
from experiments.classification.task import (
    classify,
    initial_state,
    make_model,
    num_classes,
    train_run,
    train_step,
)
from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.engine.logs import METRICS, read_metrics
from experiments.engine.parallel import check_batch_size, split
from experiments.engine.settings import Operation
from experiments.engine.step_time import inference_seconds, training_seconds
from experiments.models.cost import cost


def dry_run(
    console: Console, title: str, rows: tuple[ClassificationPreset, ...], batch_size: int
) -> None:
    """Builds every row's model and prints what it costs, on random images.

    Times are medians of five steps after the first, which compiles; they are of one batch of
    ``batch_size`` over all devices, and compare rows of one table on one machine.

    Args:
        console: to print on.
        title: of the table.
        rows: its presets.
        batch_size: images of a step.
    """
    check_batch_size(batch_size)
    table = Table(title=f"{title}: {batch_size} images a step on {jax.devices()[0].device_kind}")
    table.add_column("row")
    for heading in ("parameters", "GFLOP", "training, ms", "images/s", "inference, ms", "images/s"):
        table.add_column(heading, justify="right")
    table.add_column("paper")
    for preset in rows:
        config = preset.config
        side = config.data.image_side
        one = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        found = cost(make_model(config), one)
        training, inference = _step_seconds(config, batch_size)
        table.add_row(
            preset.row,
            f"{found.parameters:,}",
            f"{found.flops / 1e9:.4g}",
            f"{1e3 * training:.0f}",
            f"{batch_size / training:.3g}",
            f"{1e3 * inference:.0f}",
            f"{batch_size / inference:.3g}",
            preset.paper,
        )
        console.print(f"{preset.name}: done")
    console.print(table)


def _step_seconds(config: ClassificationConfig, batch_size: int) -> tuple[float, float]:
    """Median seconds of a training step and of the inference on as many images."""
    rng = np.random.default_rng(0)
    side = config.data.image_side
    image = rng.integers(0, 256, (batch_size, side, side, 3), np.uint8)
    label = rng.integers(0, num_classes(config), batch_size).astype(np.int32)
    batch = split({"image": image, "label": label})
    state = initial_state(config)
    model = make_model(config)
    return (
        training_seconds(state, train_step(config, steps_per_epoch=1000), batch),
        inference_seconds(state, lambda state, b: classify(model, state, b["image"]), batch),
    )


def run_table(
    console: Console,
    title: str,
    rows: tuple[ClassificationPreset, ...],
    output: Path,
    data_dir: Path,
    operation: Operation,
    cache: Path = DEFAULT_CACHE,
) -> None:
    """Trains and evaluates every row, and prints its accuracy beside the paper's.

    Args:
        console: to print on.
        title: of the table.
        rows: its presets.
        output: folder of the runs, one a row; what an interrupted call has done stays done.
        data_dir: folder of the tfds data sets.
        operation: how to look after the runs.
        cache: folder of the photographs.
    """
    table = Table(title=title)
    for heading in ("row", "top-1, %", "top-5, %", "paper"):
        table.add_column(heading, justify="left" if heading in ("row", "paper") else "right")
    for preset in rows:
        folder = output / preset.name
        train_run(preset.config, folder, data_dir, operation, cache)
        last = [line for line in read_metrics(folder / METRICS) if "eval/top1" in line][-1]
        table.add_row(
            preset.row,
            f"{100 * last['eval/top1']:.2f}",
            f"{100 * last['eval/top5']:.2f}",
            preset.paper,
        )
    console.print(table)
