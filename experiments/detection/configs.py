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

# Section 5.1: a learning rate of 0.02 for 16 images a step, and 500 warmup steps. The warmup is in
# epochs of COCO, so that with the linear scaling rule it covers the same number of images for every
# batch size.
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
    """Config of one run.

    Attributes:
        model: config of the network.
        data: config of the dataset and its preprocessing.
        training: config of the training.
        anchor_sampler: sampling of the RPN's training examples from the anchors.
        proposal_sampler: sampling of the heads' training examples from the proposals.
        backbone_from: folder of a classification run whose weights initialise the backbone. The
            default for a backbone with frozen norms is the run of the classification task's preset
            with the same network. Other backbones start with random weights by default.
        task: name of the task, stored in the run's folder.
    """

    model: DetectorConfig = dataclasses.field(default_factory=DetectorConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = COCO_TRAINING
    anchor_sampler: SamplerConfig = ANCHORS
    proposal_sampler: SamplerConfig = PROPOSALS
    backbone_from: str | None = None
    task: Annotated[Literal["detection"], tyro.conf.Suppress] = "detection"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` if parts of the config contradict each other."""
        side, masks = self.data.mask_side, self.model.masks
        expected = "given with a mask head, and None without one"
        check((side is not None) == masks, "mask_side", expected, side)
        if self.model.backbone.norm == "frozen":
            decays = self.training.optimizer.decay_all
            check(not decays, "decay_all", "False for frozen norms, which it would change", decays)

    @property
    def pretrained(self) -> bool:
        """Whether a classification run initialises the backbone."""
        return self.backbone_from is not None or self.model.backbone.norm == "frozen"
