"""Configs of the detection task."""

import dataclasses
from typing import Annotated, Literal

import tyro

from experiments.detection.data.config import DataConfig
from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.sampler_config import ANCHORS, PROPOSALS, SamplerConfig
from experiments.engine.config import check
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import RunConfig, TrainingConfig

# Section 5.1: 0.02 for 16 images a step. 500 steps of them warm up; in epochs of COCO, because with
# the linear scaling rule as many images do, whatever the size of a batch.
_WARMUP = 500 * 16 / 117_266
SCHEDULE_1X = ScheduleConfig(
    length=12, unit="epoch", warmup=_WARMUP, decay="step", milestones=(8, 11)
)
SCHEDULE_2X = dataclasses.replace(SCHEDULE_1X, length=24, milestones=(16, 22))
COCO_TRAINING = TrainingConfig(
    batch_size=16,
    workers=8,
    optimizer=OptimizerConfig(
        name="sgd",
        learning_rate=0.02,
        reference_batch_size=16,
        momentum=0.9,
        weight_decay=1e-4,
    ),
    schedule=SCHEDULE_1X,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionConfig(RunConfig):
    """One run.

    Attributes:
        model: the network.
        data: where objects are found.
        training: how the network is trained.
        anchor_sampler: the RPN's examples.
        proposal_sampler: the heads' examples.
        backbone_from: folder of a classification run whose network this one's backbone starts as.
            By default a backbone with frozen norms starts as the run of the classification task's
            preset with this network, and another at random.
        task: names the task in the run's folder.
    """

    model: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = COCO_TRAINING
    anchor_sampler: SamplerConfig = ANCHORS
    proposal_sampler: SamplerConfig = PROPOSALS
    backbone_from: str | None = None
    task: Annotated[Literal["detection"], tyro.conf.Suppress] = "detection"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for parts that do not go together."""
        side, masks = self.data.mask_side, self.model.masks
        expected = "given with a mask head, and None without"
        check((side is not None) == masks, "mask_side", expected, side)
        if self.model.backbone.norm == "frozen":
            decays = self.training.optimizer.decay_all
            check(not decays, "decay_all", "False for frozen norms, which it would move", decays)
