"""Spec of the inpainting task, for its tables and for `train`."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.folders import Folders
from experiments.engine.parallel import split
from experiments.engine.tables.cost import Cost, cost
from experiments.engine.tables.spec import ExampleMetrics, TaskSpec
from experiments.engine.tables.statistics import means_of
from experiments.engine.tables.step_time import inference_seconds, training_seconds
from experiments.inpainting.adversarial import alternating_step
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.example_sums import example_sums
from experiments.inpainting.fill import fill, make_generator, variables_of
from experiments.inpainting.pixels import to_unit
from experiments.inpainting.presets import CATALOGUE
from experiments.inpainting.report.report import report
from experiments.inpainting.task import RUNS, initial_state, make_optimizer, train_run

# Losses in the training log, and the titles of their panels.
_LOSSES = {
    "reconstruction": "training: reconstruction loss",
    "adversarial": "training: adversarial loss",
    "discriminator_loss": "training: discriminator's loss",
}


def cost_of(config: InpaintingConfig) -> Cost:
    """Parameters and operations of a config's generator on one image."""
    side = config.data.crop_side
    image, mask = (jax.ShapeDtypeStruct((1, side, side, n), jnp.float32) for n in (3, 1))
    return cost(make_generator(config), image, mask)


def resized(config: InpaintingConfig, side: int) -> InpaintingConfig:
    """A config for crops of ``side`` x ``side`` pixels, otherwise the same."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, crop_side=side))


def step_seconds(config: InpaintingConfig, batch_size: int) -> tuple[float, float]:
    """Median seconds of a training step and of an inference on ``batch_size`` random images."""
    rng = np.random.default_rng(0)
    side = config.data.crop_side
    image = rng.integers(0, 256, (batch_size, side, side, 3), np.uint8)
    mask = np.zeros((batch_size, side, side, 1), np.uint8)
    mask[:, side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    batch = split({"image": image, "mask": mask})
    state = initial_state(config)
    generator = make_generator(config)
    step = alternating_step(config, *make_optimizer(config.training))
    return (
        training_seconds(state, step, batch),
        inference_seconds(
            variables_of(state),
            lambda variables, b: fill(
                generator, variables, to_unit(b["image"]), b["mask"].astype(jnp.float32)
            ),
            batch,
        ),
    )


def prepare_config(config: InpaintingConfig, folder: Path, folders: Folders) -> InpaintingConfig:
    """Adds the digest of the folder of images to a config, if the config names a folder."""
    del folder, folders
    images = config.data.images
    if images is None:
        return config
    return dataclasses.replace(config, data=config.data.with_images(Path(images)))


SPEC = TaskSpec(
    catalogue=CATALOGUE,
    run_type=RUNS,
    train=train_run,
    cost=cost_of,
    step_seconds=step_seconds,
    resized=resized,
    prepare_config=prepare_config,
    report=report,
    examples=ExampleMetrics(example_sums, means_of),
    losses=_LOSSES,
)
