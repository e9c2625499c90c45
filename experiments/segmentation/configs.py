"""Configs of the segmentation task."""

import dataclasses
from typing import Annotated, Literal

import tyro

from experiments.engine.config import check, check_at_least
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import RunConfig, TrainingConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.model.config import SegmenterConfig

# Section 5.1: SGD with 16 images a step, a "poly" learning rate and 20 epochs of the official
# implementation, which has 5,000 steps in each. The exponent 0.9 and the weight decay of kernels
# only are its choices too.
_EPOCH = 5_000
ADE20K_TRAINING = TrainingConfig(
    batch_size=16,
    workers=8,
    optimizer=OptimizerConfig(
        name="sgd",
        learning_rate=0.02,
        reference_batch_size=16,
        momentum=0.9,
        weight_decay=1e-4,
    ),
    schedule=ScheduleConfig(length=20 * _EPOCH, decay="poly", power=0.9),
)


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The cross-entropy of the logits.

    Attributes:
        resolution: resolution of the loss. ``"logits"``: labels are reduced to the size of the
            logits by nearest neighbour, as in the official implementation of UperNet.
            ``"labels"``: logits are resized to the size of the labels, bilinearly, as in mmseg.
        average: pixels over which the loss is averaged. ``"labelled"``: pixels with a class.
            ``"all"``: all pixels, as in mmseg; the loss of a pixel without a class is 0.
        auxiliary_weight: weight of the auxiliary head's loss.
    """

    resolution: Literal["logits", "labels"] = "logits"
    average: Literal["labelled", "all"] = "labelled"
    auxiliary_weight: float = 0.4

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a negative weight."""
        check_at_least(self, auxiliary_weight=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationConfig(RunConfig):
    """Config of one run.

    Attributes:
        model: config of the network.
        data: config of the dataset and its preprocessing.
        training: config of the training.
        loss: config of the loss.
        pretrained: whether a classification run initialises the backbone.
        backbone_from: folder of the classification run that initialises the backbone. The default
            is the run of the classification task's ImageNet preset with the same network.
        task: name of the task, stored in the run's folder.
    """

    model: SegmenterConfig = dataclasses.field(default_factory=SegmenterConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = ADE20K_TRAINING
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    pretrained: bool = True
    backbone_from: str | None = None
    task: Annotated[Literal["segmentation"], tyro.conf.Suppress] = "segmentation"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for contradictions, or images without a whole pixel of C5."""
        source = self.backbone_from
        expected = "None for a backbone that is not pretrained"
        check(self.pretrained or source is None, "backbone_from", expected, source)
        data, stride = self.data, self.model.backbone.output_stride
        for name in ("test_shorter", "crop_side"):
            side = getattr(data, name)
            check(side >= stride, name, f"at least the output stride {stride}", side)
        sides = data.shorter_sides
        check(sides[0] >= stride, "shorter_sides", f"at least the output stride {stride}", sides)
        if self.model.backbone.norm == "frozen":
            decays = self.training.optimizer.decay_all
            check(not decays, "decay_all", "False for frozen norms, which it would change", decays)
