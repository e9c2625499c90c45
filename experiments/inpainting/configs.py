"""Configs of the inpainting task."""

import dataclasses
from typing import Literal

from experiments.data.crops import CROP_SIDE
from experiments.engine.config import check
from experiments.engine.optimization import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import TrainingConfig
from experiments.models.unet import UNetConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What is filled.

    Attributes:
        source: ``"pypi"``: the seven photographs that come with the dependencies.
            ``"debian"``: 71 photographs, which `python -m experiments.data.debian` fetches.
        crop_side: side of the training images in pixels, at most 96.
    """

    source: Literal["pypi", "debian"] = "pypi"
    crop_side: int = 64

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a side that no crop has."""
        check(1 <= self.crop_side <= CROP_SIDE, "crop_side", f"in 1..{CROP_SIDE}", self.crop_side)


# Adam's moments are those of section 5.1.
TRAINING = TrainingConfig(
    batch_size=8,
    optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, b1=0.5, b2=0.9),
    schedule=ScheduleConfig(length=800, warmup=30, decay="cosine"),
)


@dataclasses.dataclass(frozen=True)
class InpaintingConfig:
    """One run."""

    model: UNetConfig = dataclasses.field(default_factory=UNetConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = TRAINING
    task: Literal["inpainting"] = "inpainting"
