"""Sizes and choices of a generator."""

import dataclasses
from typing import Literal

from experiments.engine.config import check, check_at_least
from experiments.resamplers.methods import Downsampler, Upsampler


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of a generator; the defaults are those of Global&Local, with skip connections.

    Attributes:
        architecture: ``"global_local"``: the completion network of Global&Local (reference 15).
            ``"unet"``: that of Partial Convolution (reference 26).
        convolution: ``"plain"``, on the image and its mask as four channels; ``"partial"``, on the
            image, with the mask beside it.
        downsampler: between the levels of the encoder. Partial convolutions know ``"strided"`` and
            ``"carafe"``.
        upsampler: between the levels of the decoder. Partial convolutions know ``"nearest"`` and
            ``"carafe"``, the U-Net those and ``"bilinear"``.
        width: channels of the first level.
        levels: how often the map is halved. Global&Local has 2; the U-Net 8 for 512x512, and 7 for
            256x256.
        skips: connects encoder and decoder; section 4.3 calls Global&Local a U-Net, though
            reference 15 has it without such connections. The U-Net always has them.
        norm: ``"batch"``; ``"sync_batch"``, whose statistics are those of the batch over all
            devices; or ``"none"``.
        freeze_encoder_norm: the encoder's BatchNorm keeps its running averages in training, as in
            the second stage of reference 26 (section 4.2), which starts from a trained run.
    """

    architecture: Literal["global_local", "unet"] = "global_local"
    convolution: Literal["plain", "partial"] = "plain"
    downsampler: Downsampler = "strided"
    upsampler: Upsampler = "deconvolution"
    width: int = 64
    levels: int = 2
    skips: bool = True
    norm: Literal["batch", "sync_batch", "none"] = "batch"
    freeze_encoder_norm: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for what makes no network."""
        check_at_least(self, width=2, levels=1)
        if self.convolution == "partial":
            down, up = self.downsampler, self.upsampler
            fits = down in ("strided", "carafe")
            check(fits, "downsampler", "'strided' or 'carafe' with partial convolutions", down)
            fits = up in ("nearest", "carafe")
            check(fits, "upsampler", "'nearest' or 'carafe' with partial convolutions", up)
        if self.architecture == "unet":
            fits = self.upsampler in ("nearest", "bilinear", "carafe")
            check(fits, "upsampler", "'nearest', 'bilinear' or 'carafe' in a U-Net", self.upsampler)
            check(self.skips, "skips", "true in a U-Net", self.skips)
        if self.freeze_encoder_norm:
            check(self.norm != "none", "norm", "a BatchNorm, to be frozen", self.norm)
