"""The paper's tables: what their rows cost, and what they reach."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from experiments.data.composed.debian import DEFAULT_CACHE
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.images import bucket_shape
from experiments.detection.presets import PRESETS, DetectionPreset
from experiments.detection.task import (
    detect,
    initial_state,
    make_model,
    num_classes,
    train_run,
    train_step,
)
from experiments.engine.distributed import is_primary, primary_first
from experiments.engine.logs import METRICS, read_metrics
from experiments.engine.parallel import check_batch_size, split
from experiments.engine.settings import Operation
from experiments.engine.step_time import inference_seconds, training_seconds
from experiments.engine.tables import Table, print_tables, save_tables
from experiments.models.cost import Cost, cost

# Of a random image of the dry run.
_OBJECTS = 8


def dry_run(
    console: Console,
    title: str,
    rows: Sequence[DetectionPreset],
    batch_size: int,
) -> None:
    """Builds every row's detector and prints what it costs, on random images.

    Parameters are those of the whole detector. Operations are those of its layers on one image of
    the landscape bucket, with 1000 proposals and 100 masks; see :func:`cost_of`. Times are medians
    of five steps after the first, which compiles; they are of one batch of ``batch_size`` over all
    devices, and compare rows of one table on one machine; the speed of inference is given as a
    share of the first row's too.

    Args:
        console: to print on.
        title: of the table.
        rows: its presets.
        batch_size: images of a step.
    """
    check_batch_size(batch_size)
    height, width = bucket_shape(rows[0].config.data, portrait=False)
    table = RichTable(
        title=f"{title}: {batch_size} images of {height} x {width} a step on "
        f"{jax.devices()[0].device_kind}"
    )
    table.add_column("row")
    for heading in (
        "parameters",
        "GFLOP",
        "training, ms",
        "images/s",
        "inference, ms",
        "images/s",
        "share",
    ):
        table.add_column(heading, justify="right")
    table.add_column("paper")
    console.print(f"{len(rows)} rows; each compiles a training step and an inference, in minutes")
    first: float | None = None
    for preset in rows:
        found = cost_of(preset.config)
        training, inference = _step_seconds(preset.config, batch_size)
        first = inference if first is None else first
        table.add_row(
            preset.row,
            f"{found.parameters:,}",
            f"{found.flops / 1e9:.4g}",
            f"{1e3 * training:.0f}",
            f"{batch_size / training:.3g}",
            f"{1e3 * inference:.0f}",
            f"{batch_size / inference:.3g}",
            f"{first / inference:.2f}",
            preset.paper,
        )
        console.print(
            f"{preset.name}: {found.parameters:,} parameters, {found.flops / 1e9:.4g} GFLOP, "
            f"training {1e3 * training:.0f} ms, inference {1e3 * inference:.0f} ms"
        )
    console.print(table)


def cost_of(config: DetectionConfig) -> Cost:
    """Parameters and operations of a detector's layers, on one image of the landscape bucket.

    Without decoding of boxes and NMS, the operations of which depend on what is in the image.
    """
    model = config.model
    image = jax.ShapeDtypeStruct((1, *bucket_shape(config.data, portrait=False), 3), jnp.float32)
    return cost(
        make_model(config),
        image,
        method="layers",
        proposals=model.proposals.kept,
        detections=model.box.detections,
    )


def _step_seconds(config: DetectionConfig, batch_size: int) -> tuple[float, float]:
    """Median seconds of a training step and of the inference on as many images."""
    batch = split(_random_batch(config, batch_size))
    state = initial_state(config)
    model = make_model(config)
    return (
        training_seconds(state, train_step(config, steps_per_epoch=1000), batch),
        inference_seconds(
            state, lambda state, batch: detect(model, state, batch["image"], batch["size"]), batch
        ),
    )


def _random_batch(config: DetectionConfig, batch_size: int) -> dict[str, Any]:
    data = config.data
    rng = np.random.default_rng(0)
    shape = bucket_shape(data, portrait=False)
    limits = np.array([shape[1], shape[0], shape[1], shape[0]], np.float32)
    corners = rng.uniform(0, 1, (batch_size, data.max_objects, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1) * limits
    labels = rng.integers(0, num_classes(config), (batch_size, data.max_objects), np.int32)
    labels[:, _OBJECTS:] = -1
    batch = {
        "image": rng.integers(0, 256, (batch_size, *shape, 3), np.uint8),
        "size": np.full((batch_size, 2), shape, np.int32),
        "boxes": boxes,
        "labels": labels,
        "crowd": np.zeros(labels.shape, bool),
    }
    if data.mask_side is not None:
        sides = (data.mask_side, data.mask_side)
        batch["masks"] = rng.integers(0, 2, (*labels.shape, *sides), np.uint8)
    return batch


def run_table(
    title: str,
    rows: Sequence[DetectionPreset],
    output: Path,
    data_dir: Path,
    backbones: Path,
    operation: Operation,
    cache: Path = DEFAULT_CACHE,
) -> None:
    """Trains and evaluates every row, and says its AP beside the paper's.

    Tables share rows; a row of an earlier one is that one's run. Leaves in ``output`` a folder a
    run, and ``<title>.md``.

    Args:
        title: of the table.
        rows: its presets.
        output: folder of the runs; what an interrupted call has done stays done.
        data_dir: folder of the tfds data sets.
        backbones: folder of classification runs by the name that :func:`backbone_name` gives.
        operation: how to look after the runs.
        cache: folder of the photographs.
    """
    lines = []
    for preset in rows:
        folder = output / run_name(preset.config)
        backbone = (backbones / backbone_name(preset.config)).resolve()
        config = dataclasses.replace(preset.config, backbone_from=str(backbone))
        train_run(config, folder, data_dir, operation, cache)
        found = primary_first(functools.partial(last_evaluation, folder))
        scores = (
            f"{100 * found[key]:.1f}" if key in found else "" for key in ("box_AP", "mask_AP")
        )
        lines.append((preset.row, *scores, preset.paper))
    table = Table(title, ("", "box AP, %", "mask AP, %", "paper"), tuple(lines))
    if is_primary():
        save_tables(output / f"{title}.md", [table])
        print_tables([table])


def last_evaluation(folder: Path) -> dict[str, float]:
    """The metrics of a finished run; every run ends with an evaluation."""
    last = [line for line in read_metrics(folder / METRICS) if "eval/box_AP" in line][-1]
    evaluated = {key: value for key, value in last.items() if key.startswith("eval/")}
    return {key.removeprefix("eval/"): value for key, value in evaluated.items()}


def run_name(config: DetectionConfig) -> str:
    """The name of the run of a row's config: that of the first preset that has it."""
    return next(preset.name for preset in PRESETS if preset.config == config)


def backbone_name(config: DetectionConfig) -> str:
    """The name of the run of a config's backbone: that of its preset in the classification task."""
    backbone = config.model.backbone
    method = backbone.downsampler
    if method in ("strided", "carafe"):
        suffix = "" if method == "strided" else "-carafe"
        return f"table2-resnet{backbone.depth}{suffix}"
    return f"table3-resnet{backbone.depth}-{method.replace('_', '-')}"
