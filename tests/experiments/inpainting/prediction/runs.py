"""Runs with untrained networks, and images for them."""

import jax
import numpy as np

from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, Checkpoints
from experiments.engine.step import first_carry
from experiments.inpainting.configs import AdversarialConfig, InpaintingConfig
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.prediction.holes import HoleChoice
from experiments.inpainting.task import RUNS, initial_state

CONFIG = InpaintingConfig(
    model=GeneratorConfig("unet", upsampler="nearest", width=2, levels=1),
    adversarial=AdversarialConfig(weight=0),
)
BOX = HoleChoice(box=(8, 5, 12, 7))


def save_run(folder, steps):
    """Saves checkpoints of scaled parameters, each with a metric or without."""
    checkpoints = Checkpoints(folder / CHECKPOINTS, keep_last=9, best=RUNS.best)
    for step, (factor, metric) in steps.items():
        state = initial_state(CONFIG)
        state["generator"]["params"] = jax.tree.map(
            lambda array, factor=factor: factor * array, state["generator"]["params"]
        )
        checkpoints.save(step, jax.device_get(first_carry(state, 0)), None, {})
        if metric is not None:
            checkpoints.add_metrics(step, {RUNS.best: metric})
    checkpoints.close()
    configs.save(CONFIG, folder / "config.json")


def pixels(height=21, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
