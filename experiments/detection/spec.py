"""Spec of the detection task, for its tables and for `train`."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification.backbone import backbone_folder, check_backbone
from experiments.data.classes import num_classes
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.images import bucket_shape
from experiments.detection.presets import CATALOGUE
from experiments.detection.task import (
    RUNS,
    detect,
    initial_state,
    make_model,
    train_run,
    train_step,
)
from experiments.engine.claim import has_checkpoints
from experiments.engine.folders import Folders
from experiments.engine.parallel import split
from experiments.engine.tables.cost import Cost, cost
from experiments.engine.tables.spec import TaskSpec
from experiments.engine.tables.step_time import inference_seconds, training_seconds

# Number of objects in the random images on which steps are timed.
_OBJECTS = 8


def cost_of(config: DetectionConfig) -> Cost:
    """Parameters and operations of a detector's layers on one image of the landscape bucket.

    Decoding of boxes and NMS are not counted, because their operations depend on the image.
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


def resized(config: DetectionConfig, shorter: int) -> DetectionConfig:
    """A config for images with a shorter side of ``shorter`` pixels, otherwise the same."""
    longer = round(config.data.longer * shorter / config.data.shorter)
    data = dataclasses.replace(config.data, shorter=shorter, longer=longer)
    return dataclasses.replace(config, data=data)


def step_seconds(config: DetectionConfig, batch_size: int) -> tuple[float, float]:
    """Median seconds of a training step and of an inference on ``batch_size`` random images."""
    batch = split(_random_batch(config, batch_size))
    state = initial_state(config)
    model = make_model(config)
    return (
        training_seconds(state, train_step(config, steps_per_epoch=1000), batch),
        inference_seconds(
            state, lambda state, batch: detect(model, state, batch["image"], batch["size"]), batch
        ),
    )


def prepare_config(config: DetectionConfig, folder: Path, folders: Folders) -> DetectionConfig:
    """Checks that the classification run that initialises the backbone exists.

    Args:
        config: config of the run.
        folder: folder of the run. A run with checkpoints no longer needs its backbone's run.
        folders: folders of all runs.

    Returns:
        ``config``, unchanged.

    Raises:
        CheckpointError: the run of the backbone is missing or not finished.
        ConfigError: the run of the backbone has a different network; or the norms are frozen, and
            no preset trains this backbone.
    """
    backbone = config.model.backbone
    if config.pretrained and not has_checkpoints(folder):
        source = backbone_folder(backbone, config.backbone_from, folders.runs)
        check_backbone(source, backbone)
    return config


def _random_batch(config: DetectionConfig, batch_size: int) -> dict[str, Any]:
    data = config.data
    rng = np.random.default_rng(0)
    shape = bucket_shape(data, portrait=False)
    limits = np.array([shape[1], shape[0], shape[1], shape[0]], np.float32)
    corners = rng.uniform(0, 1, (batch_size, data.max_objects, 2, 2)).astype(np.float32)
    boxes = np.concatenate([corners.min(axis=2), corners.max(axis=2)], axis=-1) * limits
    classes = num_classes(data.source)
    labels = rng.integers(0, classes, (batch_size, data.max_objects), np.int32)
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


SPEC = TaskSpec(
    catalogue=CATALOGUE,
    run_type=RUNS,
    train=train_run,
    cost=cost_of,
    step_seconds=step_seconds,
    resized=resized,
    prepare_config=prepare_config,
)
