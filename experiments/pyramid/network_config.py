"""Config of the feature pyramid."""

import dataclasses
from typing import get_args

from experiments.engine.config import check, check_at_least
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import Upsampler


@dataclasses.dataclass(frozen=True)
class PyramidNetworkConfig:
    """Sizes and choices of a :class:`experiments.pyramid.network.PyramidNetwork`.

    Attributes:
        channels: number of channels of all maps of the pyramid.
        upsampler: upsampler of the top-down pathway.
        carafe: sizes of CARAFE++. The default ``C_m`` is a quarter of the channels, as in the
            paper's FPN of 256 channels.
    """

    channels: int = 64
    upsampler: Upsampler = "carafe"
    carafe: CarafeConfig = dataclasses.field(
        default_factory=lambda: CarafeConfig(compressed_channels=16)
    )

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check_at_least(self, channels=1)
        choices = get_args(Upsampler)
        check(self.upsampler in choices, "upsampler", f"one of {choices}", self.upsampler)
