"""The spec of the classification task, for its tables and the command `train`."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification.configs import ClassificationConfig
from experiments.classification.example_sums import example_sums
from experiments.classification.presets import CATALOGUE
from experiments.classification.task import (
    RUNS,
    classify,
    initial_state,
    make_model,
    train_run,
    train_step,
)
from experiments.data.classes import num_classes
from experiments.engine.parallel import split
from experiments.engine.tables.cost import Cost, cost
from experiments.engine.tables.spec import ExampleMetrics, TaskSpec
from experiments.engine.tables.statistics import means_of
from experiments.engine.tables.step_time import inference_seconds, training_seconds


def cost_of(config: ClassificationConfig) -> Cost:
    """Counts parameters and operations of a config's network for one image."""
    side = config.data.image_side
    return cost(make_model(config), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32))


def resized(config: ClassificationConfig, side: int) -> ClassificationConfig:
    """Returns the same config for images of ``side`` x ``side`` pixels."""
    data = dataclasses.replace(config.data, image_side=side, eval_resize=side)
    return dataclasses.replace(config, data=data)


def step_seconds(config: ClassificationConfig, batch_size: int) -> tuple[float, float]:
    """Returns median seconds of a training step and of an inference on ``batch_size`` images."""
    rng = np.random.default_rng(0)
    side = config.data.image_side
    image = rng.integers(0, 256, (batch_size, side, side, 3), np.uint8)
    label = rng.integers(0, num_classes(config.data.source), batch_size).astype(np.int32)
    batch = split({"image": image, "label": label})
    state = initial_state(config)
    model = make_model(config)
    return (
        training_seconds(state, train_step(config, steps_per_epoch=1000), batch),
        inference_seconds(state, lambda state, b: classify(model, state, b["image"]), batch),
    )


SPEC = TaskSpec(
    catalogue=CATALOGUE,
    run_type=RUNS,
    train=train_run,
    cost=cost_of,
    step_seconds=step_seconds,
    resized=resized,
    examples=ExampleMetrics(example_sums, means_of),
)
