"""Config of the images that a pretrained network reads."""

import dataclasses
import math
from typing import Literal, get_args

from experiments.engine.config import check

Channels = Literal["rgb", "bgr"]
Statistics = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """Order of the channels, mean and standard deviation of the images that a network reads.

    The default has the mean and the standard deviation of ImageNet's training images, as in
    torchvision, mmdet 2 and mmseg. detectron2's models with weights of MSRA read
    ``InputConfig("bgr", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0))``.

    Attributes:
        channels: order of the channels.
        mean: mean of each channel, in bytes (0 to 255), in the order of ``channels``.
        std: standard deviation of each channel, in bytes, in the order of ``channels``.
    """

    channels: Channels = "rgb"
    mean: Statistics = (123.675, 116.28, 103.53)
    std: Statistics = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        choices = get_args(Channels)
        check(self.channels in choices, "channels", f"one of {choices}", self.channels)
        for name in ("mean", "std"):
            values = getattr(self, name)
            finite = len(values) == 3 and all(map(math.isfinite, values))
            check(finite, name, "three finite numbers", values)
        check(all(value > 0 for value in self.std), "std", "numbers above 0", self.std)
