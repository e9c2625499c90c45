"""Sizes and choices of a two-stage detector."""

import dataclasses

from experiments.detection.model.anchors import AnchorConfig
from experiments.engine.config import check, check_at_least
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import WITHOUT_GUIDE, Upsampler


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """How proposals are selected from the RPN's boxes.

    Attributes:
        per_level: number of boxes with the highest scores, on each level, on which NMS runs.
        kept: number of proposals in an image, over all levels.
        iou_threshold: IoU threshold of NMS, which runs on each level separately.
        in_padding: whether anchors with a centre in the padding of an image are refined too, as in
            torchvision, detectron2 and mmdet 2.
        shortest_side: boxes with a shorter side, in pixels, are dropped before NMS, and empty
            boxes too. torchvision has 1e-3, detectron2 and mmdet 2 have 0.
        clamps_shrinking: whether the deltas of a box shrink no side to less than 16 / 1000 of the
            anchor's side, as in mmdet 2.
    """

    per_level: int
    kept: int
    iou_threshold: float = 0.7
    in_padding: bool = False
    shortest_side: float = 1e-2
    clamps_shrinking: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, per_level=1, kept=1, shortest_side=0)
        check(0 < self.iou_threshold <= 1, "iou_threshold", "in (0, 1]", self.iou_threshold)


@dataclasses.dataclass(frozen=True)
class RoIAlignConfig:
    """How the heads sample the feature pyramid; see :func:`.roi_align.roi_align`.

    Attributes:
        aligned: whether the centres of pixels have half-integer coordinates, as in detectron2 and
            mmdet 2. torchvision's detectors have False: the centre of the first pixel is at 0, and
            a side of a region is at least one pixel of its map.
        sampling_ratio: number of points along each axis of a bin, 2 in torchvision's detectors. 0:
            the number is the length of the bin in pixels of its map, rounded up, as in detectron2
            and mmdet 2.
    """

    aligned: bool = True
    sampling_ratio: int = 2

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a negative ratio."""
        check_at_least(self, sampling_ratio=0)


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
        shortest_side: boxes with a shorter side, in pixels, are dropped before NMS, and empty
            boxes too; 1e-2 in torchvision. None: no box is dropped, as in detectron2 and mmdet 2.
            Empty boxes then count among ``detections``; the evaluation leaves them out.
        clamps_shrinking: whether the deltas of a box shrink no side to less than 16 / 1000 of the
            proposal's side, as in mmdet 2.
    """

    size: int = 7
    features: int = 1024
    class_agnostic: bool = False
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    detections: int = 100
    shortest_side: float | None = 1e-2
    clamps_shrinking: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, size=1, features=1, detections=1, score_threshold=0)
        check(0 < self.iou_threshold <= 1, "iou_threshold", "in (0, 1]", self.iou_threshold)
        side = self.shortest_side
        check(side is None or side >= 0, "shortest_side", "at least 0, or None", side)


@dataclasses.dataclass(frozen=True)
class MaskHeadConfig:
    """The head that predicts masks.

    Attributes:
        size: side of RoIAlign's output, in bins; the side of masks is twice as long.
        layers: number of 3x3 convolutions before the upsampler.
        features: number of features of the convolutions.
        upsampler: upsampler between the 3x3 convolutions and the masks (section 4.1, Table 6). It
            reads no guide: the head has no map of higher resolution.
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
        upsamplers = WITHOUT_GUIDE
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
        roi_align: sampling of the feature pyramid by both heads.
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
    roi_align: RoIAlignConfig = dataclasses.field(default_factory=RoIAlignConfig)
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
