"""Configs of the classification task."""

import dataclasses
from typing import Annotated, Literal

import tyro

from experiments.classification.data_config import DataConfig
from experiments.engine.config import check
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import RunConfig, TrainingConfig
from experiments.models.resnet_config import ResNetConfig

# Goyal et al. (reference 11), with the changes of section 5.1: 1,024 images a step, 90 epochs.
IMAGENET_TRAINING = TrainingConfig(
    batch_size=1024,
    workers=8,
    optimizer=OptimizerConfig(
        name="sgd",
        learning_rate=0.1,
        reference_batch_size=256,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
    ),
    schedule=ScheduleConfig(
        length=90, unit="epoch", warmup=5, warmup_from=0.1, decay="step", milestones=(30, 60, 80)
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassificationConfig(RunConfig):
    """Config of a run.

    Attributes:
        model: config of the network.
        data: config of the dataset, and of the preparation of its images.
        training: config of the training.
        task: name of the task, stored in the folder of the run.
    """

    model: ResNetConfig = dataclasses.field(default_factory=ResNetConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = IMAGENET_TRAINING
    task: Annotated[Literal["classification"], tyro.conf.Suppress] = "classification"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for an image that is smaller than the network's stride."""
        side, stride = self.data.image_side, self.model.output_stride
        check(side >= stride, "image_side", f"at least the output stride {stride}", side)
        if self.model.norm == "frozen":
            decays = self.training.optimizer.decay_all
            check(not decays, "decay_all", "False for norm 'frozen', which it would change", decays)
