"""Spec of the segmentation task, for its tables and for `train`."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification.backbone import backbone_folder, check_backbone
from experiments.engine.claim import has_checkpoints
from experiments.engine.folders import Folders
from experiments.engine.parallel import split
from experiments.engine.tables.cost import Cost, cost
from experiments.engine.tables.spec import TaskSpec
from experiments.engine.tables.step_time import inference_seconds, training_seconds
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.datasets import with_own_files
from experiments.segmentation.presets import CATALOGUE
from experiments.segmentation.task import (
    RUNS,
    initial_state,
    make_model,
    segment,
    train_run,
    train_step,
)


def cost_of(config: SegmentationConfig) -> Cost:
    """Parameters and operations of a network for one square image of ``data.cost_side``.

    An auxiliary head, which only training needs, is counted.
    """
    side = config.data.cost_side
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return cost(make_model(config), image, method="layers")


def resized(config: SegmentationConfig, side: int) -> SegmentationConfig:
    """The config with ``side`` as ``data.cost_side``, otherwise the same."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, cost_side=side))


def step_seconds(config: SegmentationConfig, batch_size: int) -> tuple[float, float]:
    """Median seconds of a training step and of an inference on ``batch_size`` random images."""
    rng = np.random.default_rng(0)
    shape = (batch_size, config.data.cost_side, config.data.cost_side)
    batch = split(
        {
            "image": rng.integers(0, 256, (*shape, 3), np.uint8),
            "size": np.full((batch_size, 2), shape[1:], np.int32),
            "label": rng.integers(0, config.data.classes, shape, np.uint8),
        }
    )
    state = initial_state(config)
    model = make_model(config)
    return (
        training_seconds(state, train_step(config, steps_per_epoch=1000), batch),
        inference_seconds(state, lambda state, b: segment(model, state, b["image"]), batch),
    )


def prepare_config(
    config: SegmentationConfig, folder: Path, folders: Folders
) -> SegmentationConfig:
    """Reads a user's own files, and checks that the run of the backbone exists.

    Args:
        config: config of the run.
        folder: folder of the run. A run with checkpoints no longer needs the run of its backbone.
        folders: folders of all runs.

    Returns:
        ``config``; if it names a user's own files, with their digest and number of classes.

    Raises:
        CheckpointError: the run of the backbone is missing or not finished.
        ConfigError: the run of the backbone has a different network, or no preset trains this
            backbone.
        DataError: the user's own files cannot be used.
    """
    backbone = config.model.backbone
    if config.pretrained and not has_checkpoints(folder):
        check_backbone(backbone_folder(backbone, config.backbone_from, folders.runs), backbone)
    return dataclasses.replace(config, data=with_own_files(config.data))


SPEC = TaskSpec(
    catalogue=CATALOGUE,
    run_type=RUNS,
    train=train_run,
    cost=cost_of,
    step_seconds=step_seconds,
    resized=resized,
    prepare_config=prepare_config,
)
