"""Config of the pyramid task."""

import dataclasses
from typing import Annotated, Literal

import tyro

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import RunConfig, TrainingConfig
from experiments.pyramid.network_config import PyramidNetworkConfig

SCENES = ScenesConfig(
    "debian", longer_side=160, training_images=4000, smallest=24, largest=110, max_objects=4
)
TRAINING = TrainingConfig(
    batch_size=8,
    optimizer=OptimizerConfig(name="adam", learning_rate=4e-3),
    schedule=ScheduleConfig(length=500, warmup=30, decay="cosine"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PyramidConfig(RunConfig):
    """Config of a run.

    Attributes:
        model: config of the network on the cached features.
        scenes: config of the scenes whose features are cached.
        training: how the network is trained.
        task: name of the task, stored in the folder of the run.
    """

    model: PyramidNetworkConfig = dataclasses.field(default_factory=PyramidNetworkConfig)
    scenes: ScenesConfig = SCENES
    training: TrainingConfig = TRAINING
    task: Annotated[Literal["pyramid"], tyro.conf.Suppress] = "pyramid"
