"""Scenes, maps and a pyramid that a CPU computes and trains in seconds."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.folders import Folders
from experiments.engine.settings import Operation
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.network_config import PyramidNetworkConfig
from experiments.pyramid.task import train_run
from experiments.resamplers.carafe_config import CarafeConfig

# Of images of 72 x 96 pixels, C2 is 18 x 24, C3 9 x 12, C4 5 x 6 and C5 3 x 3: some sides are odd.
TINY = PyramidConfig(
    model=PyramidNetworkConfig(channels=8, carafe=CarafeConfig(compressed_channels=4)),
    scenes=ScenesConfig("pypi", 96, 12, 14, smallest=24, largest=48, max_objects=2),
).with_training(batch_size=4)


def of_length(steps, config=TINY):
    """Returns the config with another number of steps."""
    schedule = dataclasses.replace(config.training.schedule, length=steps, warmup=0)
    return config.with_training(schedule=schedule)


def make_projection(weights):
    """Returns an extractor that is not compiled: each pixel of a map projects 4 x 4 pixels."""
    del weights
    rng = np.random.default_rng(0)
    # Sums of products of small integers are exact, whatever the size of a batch.
    matrices = {
        stride: rng.integers(-4, 5, (48, channels)).astype(np.float32)
        for stride, channels in ((4, 24), (8, 32), (16, 96), (32, 320))
    }

    def project(images, stride):
        pixels = images[:, :: stride // 4, :: stride // 4]
        batch, height, width, _ = pixels.shape
        padded = np.pad(pixels, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)))
        rows, columns = -(-height // 4), -(-width // 4)
        blocks = padded.reshape(batch, rows, 4, columns, 4, 3).swapaxes(2, 3)
        blocks = blocks.reshape(batch, rows, columns, 48).astype(np.float32)
        return jnp.asarray(blocks @ matrices[stride] / 1020, jnp.float16)

    return lambda images: tuple(project(images, stride) for stride in matrices)


def train(folder, data_dir, cache, config, **operation):
    return train_run(config, folder, Folders(data_dir, cache), Operation(log_every=1, **operation))
