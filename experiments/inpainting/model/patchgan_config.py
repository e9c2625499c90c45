"""Sizes and choices of a PatchGAN."""

import dataclasses
from typing import Literal

from experiments.engine.config import check_at_least


@dataclasses.dataclass(frozen=True)
class PatchGANConfig:
    """Sizes of a :class:`experiments.inpainting.model.patchgan.PatchGAN`.

    Attributes:
        width: channels of the first convolution; they double with each, up to eight times as many.
        layers: convolutions with stride 2. Three of them, and the two of stride 1 that follow, see
            patches of 70x70 pixels.
        norm: after all convolutions but the first and the last. ``"instance"``, over each map: what
            reference 20 has at its batch size of 1, and what lets an image's patches depend on no
            other image, however the batch is shared by devices.
        spectral: divides each kernel by its largest singular value (Miyato et al., "Spectral
            Normalization for Generative Adversarial Networks"), found by one step of power
            iteration an update.
    """

    width: int = 64
    layers: int = 3
    norm: Literal["instance", "none"] = "instance"
    spectral: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for what makes no network."""
        check_at_least(self, width=1, layers=1)
