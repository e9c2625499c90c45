"""Sizes and choices of a two-stage detector."""

import dataclasses
from typing import get_args

from experiments.detection.model.anchors import AnchorConfig
from experiments.engine.config import check, check_at_least
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import Upsampler


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """How proposals are selected from the RPN's boxes.

    Attributes:
        per_level: number of boxes with the highest scores, on each level, on which NMS runs.
        kept: number of proposals in an image, over all levels.
        iou_threshold: IoU threshold of NMS, which runs on each level separately.
    """

    per_level: int
    kept: int
    iou_threshold: float = 0.7

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, per_level=1, kept=1)
        check(0 < self.iou_threshold <= 1, "iou_threshold", "in (0, 1]", self.iou_threshold)


@dataclasses.dataclass(frozen=True)
class BoxHeadConfig:
    """The head that classifies and refines proposals.

    Attributes:
        size: side of RoIAlign's output, in bins.
        features: number of features of both fully connected layers.
        class_agnostic: whether the head predicts one box for each proposal, instead of one box for
            each class.
        score_threshold: detections with this score or a lower one are dropped.
        iou_threshold: IoU threshold of NMS, which runs on each class separately.
        detections: largest number of detections in an image.
    """

    size: int = 7
    features: int = 1024
    class_agnostic: bool = False
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    detections: int = 100

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, size=1, features=1, detections=1, score_threshold=0)
        check(0 < self.iou_threshold <= 1, "iou_threshold", "in (0, 1]", self.iou_threshold)


@dataclasses.dataclass(frozen=True)
class MaskHeadConfig:
    """The head that predicts masks.

    Attributes:
        size: side of RoIAlign's output, in bins; the side of masks is twice as long.
        layers: number of 3x3 convolutions before the upsampler.
        features: number of features of the convolutions.
        upsampler: upsampler between the 3x3 convolutions and the masks (section 4.1, Table 6).
        carafe: options of the upsampler, if it is CARAFE++.
        class_agnostic: whether the head predicts one mask for each box, instead of one mask for
            each class.
    """

    size: int = 14
    layers: int = 4
    features: int = 256
    upsampler: Upsampler = "deconvolution"
    carafe: CarafeConfig = dataclasses.field(default_factory=CarafeConfig)
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, size=1, layers=0, features=1)
        upsamplers = get_args(Upsampler)
        check(self.upsampler in upsamplers, "upsampler", f"one of {upsamplers}", self.upsampler)


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Sizes and choices of a :class:`experiments.detection.model.detector.Detector`.

    Attributes:
        backbone: config of the backbone; its norms are frozen in the paper's detectors, as in
            detectron2.
        frozen_stages: number of backbone stages that are not trained, in 0..4. 0 trains the whole
            backbone. 1 freezes the stem and Res-2, as in detectron2 and mmdet 2. 4 freezes the
            whole backbone.
        neck: config of the feature pyramid.
        anchors: config of the RPN's anchors, with one stride for each level of the pyramid.
        training_proposals: selection of proposals in training.
        proposals: selection of proposals in inference.
        box: config of the box head.
        masks: whether there is a mask head; the detector is then Mask R-CNN instead of Faster
            R-CNN.
        mask: config of the mask head.
    """

    backbone: ResNetConfig = dataclasses.field(default_factory=lambda: ResNetConfig(norm="frozen"))
    frozen_stages: int = 1
    neck: FPNConfig = dataclasses.field(default_factory=FPNConfig)
    anchors: AnchorConfig = dataclasses.field(default_factory=AnchorConfig)
    training_proposals: ProposalConfig = dataclasses.field(
        default_factory=lambda: ProposalConfig(2000, 2000)
    )
    proposals: ProposalConfig = dataclasses.field(
        default_factory=lambda: ProposalConfig(1000, 1000)
    )
    box: BoxHeadConfig = dataclasses.field(default_factory=BoxHeadConfig)
    masks: bool = False
    mask: MaskHeadConfig = dataclasses.field(default_factory=MaskHeadConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check(0 <= self.frozen_stages <= 4, "frozen_stages", "in 0..4", self.frozen_stages)
        stride = self.backbone.output_stride
        check(stride == 32, "output_stride", "32 for a feature pyramid", stride)
        strides = (4, 8, 16, 32, 64) if self.neck.extra_level else (4, 8, 16, 32)
        given = self.anchors.strides
        check(given == strides, "strides", f"{strides}, the strides of the pyramid", given)
