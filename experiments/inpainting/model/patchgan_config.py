"""Sizes and choices of a PatchGAN."""

import dataclasses
from typing import Literal

from experiments.engine.config import check_at_least


@dataclasses.dataclass(frozen=True)
class PatchGANConfig:
    """Sizes of a :class:`experiments.inpainting.model.patchgan.PatchGAN`.

    Attributes:
        width: number of channels of the first convolution; it doubles with each convolution, up to
            eight times ``width``.
        layers: number of convolutions with stride 2. Two convolutions with stride 1 follow; with
            three layers, patches have 70x70 pixels.
        norm: normalisation after all convolutions except the first and the last. ``"instance"``:
            InstanceNorm, which equals the norm of reference 20 at its batch size of 1. An image's
            logits thus do not depend on other images, however the batch is split over devices.
            ``"none"``: no normalisation.
        spectral: whether each kernel is divided by its largest singular value (Miyato et al.,
            "Spectral Normalization for Generative Adversarial Networks"), which is estimated by one
            step of power iteration in each update.
    """

    width: int = 64
    layers: int = 3
    norm: Literal["instance", "none"] = "instance"
    spectral: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for fields that do not define a network."""
        check_at_least(self, width=1, layers=1)
