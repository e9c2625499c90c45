"""Scenes and a pyramid that a CPU trains in seconds."""

import dataclasses

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.folders import Folders
from experiments.engine.settings import Operation
from experiments.pyramid.configs import PyramidConfig
from experiments.pyramid.network_config import PyramidNetworkConfig
from experiments.pyramid.task import train_run
from experiments.resamplers.carafe_config import CarafeConfig

# Sides of which no map is a whole fraction: C2 is 18 x 24, C3 9 x 12, C4 5 x 6, C5 3 x 3.
TINY = PyramidConfig(
    model=PyramidNetworkConfig(channels=8, carafe=CarafeConfig(compressed_channels=4)),
    scenes=ScenesConfig("pypi", 96, 12, 14, smallest=24, largest=48, max_objects=2),
).with_training(batch_size=4)


def of_length(steps, config=TINY):
    """Returns the config with another number of steps."""
    schedule = dataclasses.replace(config.training.schedule, length=steps, warmup=0)
    return config.with_training(schedule=schedule)


def train(folder, data_dir, cache, config, **operation):
    return train_run(config, folder, Folders(data_dir, cache), Operation(log_every=1, **operation))
