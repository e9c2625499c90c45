"""Config of a network for semantic segmentation."""

import dataclasses
from typing import Literal, get_args

from experiments.engine.config import check, check_at_least
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import UPSAMPLERS, WITHOUT_GATE, Upsampler

Architecture = Literal["upernet", "pspnet", "psanet"]
PoolingOrder = Literal["resize_first", "convolution_first"]
Norm = Literal["batch", "sync_batch"]

BACKBONE = ResNetConfig(50, norm="sync_batch", stem="deep")


@dataclasses.dataclass(frozen=True)
class SegmenterConfig:
    """Sizes and choices of a :class:`experiments.segmentation.model.segmenter.Segmenter`.

    Attributes:
        architecture: head of the network. ``"upernet"``: UperNet (reference 43). ``"pspnet"``:
            PSPNet (reference 47). ``"psanet"``: PSANet with both directions (reference 48).
        backbone: config of the backbone. UperNet uses its four maps, with strides of 4 to 32;
            PSPNet and PSANet use the last map, usually with an output stride of 8.
        channels: number of channels of the convolutions in the head.
        ppm: upsampler of the pyramid pooling module of UperNet and PSPNet. An upsampler with a
            guide reads the map of the backbone, whose channels do not fit a gate.
        fpn: upsampler in the top-down pathway of UperNet. An upsampler with a guide reads the
            lateral.
        fuse: upsampler in the multi-level feature fusion of UperNet. An upsampler with a guide
            reads the next finer level, whose channels do not fit a gate.
        carafe: sizes of CARAFE++ as an upsampler in the head.
        pooling_order: order of two steps in the pyramid pooling module. ``"resize_first"``: the
            pooled maps are resized before their 1x1 convolution, as in the official implementation
            of UperNet. ``"convolution_first"``: after it, as in mmseg.
        mask_side: number of offsets along each axis in PSANet's masks of relative positions.
        dropout: probability with which a channel is dropped before the classifier in training.
        auxiliary: whether the network has an auxiliary head on C4, for training.
        auxiliary_channels: number of channels in the auxiliary head. The default is half of
            ``channels``, as in mmseg; the official implementation of PSPNet with ResNet-50 has 512.
        norm: normalisation in the heads. ``"batch"``: BatchNorm. ``"sync_batch"``: BatchNorm with
            the statistics of all devices.
    """

    architecture: Architecture = "upernet"
    backbone: ResNetConfig = BACKBONE
    channels: int = 512
    ppm: Upsampler = "bilinear"
    fpn: Upsampler = "bilinear"
    fuse: Upsampler = "bilinear"
    carafe: CarafeConfig = dataclasses.field(default_factory=CarafeConfig)
    pooling_order: PoolingOrder = "resize_first"
    mask_side: int = 59
    dropout: float = 0.0
    auxiliary: bool = False
    auxiliary_channels: int | None = None
    norm: Norm = "sync_batch"

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for fields out of range, or upsamplers that the head lacks."""
        choices = {
            "architecture": Architecture,
            "pooling_order": PoolingOrder,
            "norm": Norm,
        }
        allowed = {name: get_args(choice) for name, choice in choices.items()}
        allowed |= {"ppm": WITHOUT_GATE, "fpn": UPSAMPLERS, "fuse": WITHOUT_GATE}
        for name, values in allowed.items():
            value = getattr(self, name)
            check(value in values, name, f"one of {values}", value)
        check_at_least(self, channels=1, mask_side=1)
        if self.auxiliary_channels is not None:
            check_at_least(self, auxiliary_channels=1)
        check(0 <= self.dropout < 1, "dropout", "in [0, 1)", self.dropout)
        if self.architecture == "upernet":
            stride = self.backbone.output_stride
            check(
                stride == 32, "output_stride", "32 for upernet, whose maps differ in size", stride
            )
        else:
            unused = ("fpn", "fuse") if self.architecture == "pspnet" else ("ppm", "fpn", "fuse")
            for name in unused:
                value = getattr(self, name)
                expected = f"'bilinear' for {self.architecture}, which has no {name}"
                check(value == "bilinear", name, expected, value)
