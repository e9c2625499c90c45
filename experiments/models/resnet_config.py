"""Config of a ResNet."""

import dataclasses
from typing import Literal, get_args

from experiments.engine.config import check, check_at_least
from experiments.models.input_config import InputConfig
from experiments.resamplers.methods import Downsampler

Depth = Literal[18, 34, 50, 101, 152]
Norm = Literal["batch", "sync_batch", "frozen"]
OutputStride = Literal[32, 16, 8]
Stem = Literal["conv7", "deep", "v1c"]

# Number of blocks in Res-2 to Res-5, by depth.
BLOCKS: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Sizes and choices of a :class:`experiments.models.resnet.ResNet`.

    Attributes:
        depth: number of layers with weights; 18 and 34 have basic blocks, the others bottlenecks.
        downsampler: downsampler at the seven sites of section 4.1.
        compressed_channels: ``C_m`` of CARAFE++, 16 in the paper (Table 12).
        norm: normalisation. ``"batch"``: BatchNorm. ``"sync_batch"``: BatchNorm with the statistics
            of all devices. ``"frozen"``: BatchNorm with running averages in training too, and
            without gradients of its scale and bias.
        output_stride: stride of C5, in pixels; for 16 and 8, Res-5, or Res-4 and Res-5, have
            dilations instead of strides.
        width: channels of the stem; 64 in all standard networks.
        stem: convolutions of the stem. ``"conv7"``: one of 7x7. ``"deep"``: three of 3x3 with
            ``width``, ``width`` and ``2 * width`` channels, as in the official implementations of
            UperNet, PSPNet and PSANet. ``"v1c"``: three of 3x3 with ``width / 2``, ``width / 2``
            and ``width`` channels, as in mmseg's ResNetV1c.
        norm_epsilon: number that normalisation adds to variances; 1e-5 in PyTorch, detectron2 and
            mmdet 2. It is 0 in torchvision's detectors with the weights ``COCO_V1``. Normalisation
            inside a downsampler keeps 1e-5.
        stride_in_1x1: whether the stride of a bottleneck is on its first 1x1 convolution instead of
            its 3x3 convolution, as in detectron2's models with weights of MSRA. Only strided
            downsampling allows it, because the sites of section 4.1 are at the 3x3 convolution.
        deformable_stages: for Res-2, Res-3, Res-4 and Res-5, whether the 3x3 convolutions of the
            bottlenecks are modulated deformable convolutions. A convolution that follows a
            downsampler other than ``"strided"`` stays a plain one (section 5.2). mmdet's "c3-c5"
            is ``(False, True, True, True)``. The paper names the stages of its DCNv2 baseline
            Res-2, Res-3 and Res-4. It names the stages of a ResNet Res-1 to Res-5, so that would
            be ``(True, True, True, False)``. But it also says that CARAFE++ replaces the DCNv2
            layers with a stride, which Res-2 does not have. The presets of Table 1 read the
            paper's numbers as counted from 0, which gives "c3-c5".
        deformable_groups: number of channel groups of a deformable convolution, each with offsets
            and masks of its own. It divides the channels of all deformable convolutions.
        input: order of the channels, mean and standard deviation of the images.
    """

    depth: Depth = 50
    downsampler: Downsampler = "strided"
    compressed_channels: int = 16
    norm: Norm = "batch"
    output_stride: OutputStride = 32
    width: int = 64
    stem: Stem = "conv7"
    norm_epsilon: float = 1e-5
    stride_in_1x1: bool = False
    deformable_stages: tuple[bool, bool, bool, bool] = (False, False, False, False)
    deformable_groups: int = 1
    input: InputConfig = dataclasses.field(default_factory=InputConfig)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        choices = {
            "depth": Depth,
            "downsampler": Downsampler,
            "norm": Norm,
            "output_stride": OutputStride,
            "stem": Stem,
        }
        for name, choice in choices.items():
            value = getattr(self, name)
            check(value in get_args(choice), name, f"one of {get_args(choice)}", value)
        for name in ("compressed_channels", "width"):
            value = getattr(self, name)
            check(value >= 1, name, "at least 1", value)
        if self.stem == "v1c":
            check(self.width % 2 == 0, "width", "even for the stem 'v1c'", self.width)
        check_at_least(self, norm_epsilon=0)
        if self.stride_in_1x1:
            name, given = "stride_in_1x1", self.stride_in_1x1
            expected = f"False for basic blocks, which depth {self.depth} has"
            check(self.depth >= 50, name, expected, given)
            expected = f"False for the downsampler {self.downsampler!r}"
            check(self.downsampler == "strided", name, expected, given)
        self._check_deformable()

    def _check_deformable(self) -> None:
        stages, groups = self.deformable_stages, self.deformable_groups
        four_bools = len(stages) == 4 and all(type(each) is bool for each in stages)
        check(four_bools, "deformable_stages", "four bools, for Res-2 to Res-5", stages)
        check_at_least(self, deformable_groups=1)
        if any(stages):
            expected = f"all False for basic blocks, which depth {self.depth} has"
            check(self.depth >= 50, "deformable_stages", expected, stages)
            # The widths of later stages are multiples of this one.
            width = self.width * 2 ** stages.index(True)
            expected = f"a divisor of {width}, the width of the first deformable stage"
            check(width % groups == 0, "deformable_groups", expected, groups)
