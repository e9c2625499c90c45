"""The spec of the pyramid task, for its tables and the command `train`."""

import dataclasses
import functools

import numpy as np

from experiments.data.classes import num_classes
from experiments.engine.parallel import split
from experiments.engine.tables.cost import Cost, cost
from experiments.engine.tables.spec import ExampleMetrics, TaskSpec
from experiments.engine.tables.step_time import inference_seconds, training_seconds
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.example_sums import example_sums, metrics_of
from experiments.pyramid.features_writing import map_shapes
from experiments.pyramid.presets import CATALOGUE
from experiments.pyramid.task import (
    RUNS,
    initial_state,
    make_model,
    predict,
    train_run,
    train_step,
)


def cost_of(config: PyramidConfig) -> Cost:
    """Counts parameters and operations of a config's network for one landscape image.

    The frozen backbone is not counted.
    """
    scenes = config.scenes
    return cost(make_model(config), map_shapes(1, scenes.shorter_side, scenes.longer_side))


def resized(config: PyramidConfig, side: int) -> PyramidConfig:
    """Returns the same config for images with a shorter side of ``side`` pixels."""
    scenes = config.scenes
    scenes = dataclasses.replace(
        scenes,
        longer_side=-(-side * 4 // 3),
        smallest=min(scenes.smallest, side),
        largest=min(scenes.largest, side),
    )
    return dataclasses.replace(config, scenes=scenes)


def step_seconds(config: PyramidConfig, batch_size: int) -> tuple[float, float]:
    """Returns median seconds of a training step and of an inference on ``batch_size`` images.

    The images are landscapes with random maps and labels.
    """
    rng = np.random.default_rng(0)
    size = config.scenes.shorter_side, config.scenes.longer_side
    maps = map_shapes(batch_size, *size)
    batch = split(
        {
            "maps": tuple(rng.normal(size=each.shape).astype(each.dtype) for each in maps),
            "label": rng.integers(0, num_classes("label_scenes"), (batch_size, *size), np.uint8),
        }
    )
    state = initial_state(config)
    infer = functools.partial(predict, make_model(config))
    return (
        training_seconds(state, train_step(config, steps_per_epoch=1000), batch),
        inference_seconds(state, lambda state, batch: infer(state, batch["maps"]), batch),
    )


SPEC = TaskSpec(
    catalogue=CATALOGUE,
    run_type=RUNS,
    train=train_run,
    cost=cost_of,
    step_seconds=step_seconds,
    resized=resized,
    examples=ExampleMetrics(example_sums, metrics_of),
)
