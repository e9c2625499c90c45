"""Configs of the inpainting task."""

import dataclasses
from typing import Literal

from experiments.data.crops import CROP_SIDE
from experiments.engine.config import check
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


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained: Adam with linear warm-up, then cosine decay to zero.

    Attributes:
        steps: optimiser steps in all.
        batch_size: images of a step, over all devices.
        learning_rate: highest one, reached after ``warmup_steps``.
        warmup_steps: steps of the linear warm-up.
        b1: Adam's decay of the first moment; 0.5 in section 5.1.
        b2: Adam's decay of the second moment; 0.9 in section 5.1.
        seed: of the initial parameters, the order of the data, the crops and the masks.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 800
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup_steps: int = 30
    b1: float = 0.5
    b2: float = 0.9
    seed: int = 0
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for what cannot be trained with."""
        for name in ("steps", "batch_size", "checkpoint_every"):
            check(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        warmup = self.warmup_steps
        check(
            0 <= warmup < self.steps, "warmup_steps", f"in 0..{self.steps - 1} (steps - 1)", warmup
        )
        for name in ("b1", "b2"):
            check(0 <= getattr(self, name) < 1, name, "in [0, 1)", getattr(self, name))


@dataclasses.dataclass(frozen=True)
class InpaintingConfig:
    """One run."""

    model: UNetConfig = dataclasses.field(default_factory=UNetConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    task: Literal["inpainting"] = "inpainting"
