"""Sizes and choices of a generator."""

import dataclasses
from typing import Literal

from experiments.engine.config import check, check_at_least
from experiments.resamplers.methods import (
    UPSAMPLERS,
    WITHOUT_GATE,
    WITHOUT_GUIDE,
    Downsampler,
    Upsampler,
)

_OF_UNET: tuple[Upsampler, ...] = (
    "nearest",
    "bilinear",
    "carafe",
    "dysample",
    "dysample_plus",
    "sapa",
)


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Sizes and choices of a generator. The default is Global&Local with skip connections.

    Attributes:
        architecture: the network. ``"global_local"``: the completion network of Global&Local
            (reference 15). ``"unet"``: the U-Net of Partial Convolution (reference 26).
        convolution: kind of the convolutions. ``"plain"``: the input is the image and its mask,
            concatenated to four channels. ``"partial"``: partial convolutions on the image, with
            the mask as a second input.
        downsampler: downsampler between the levels of the encoder. Partial convolutions support
            ``"strided"`` and ``"carafe"``.
        upsampler: upsampler between the levels of the decoder. Partial convolutions support
            ``"nearest"`` and ``"carafe"``; the U-Net also supports ``"bilinear"``, ``"dysample"``,
            ``"dysample_plus"`` and ``"sapa"``. ``"sapa"`` reads the skip connection, whose channels
            do not fit the gate of ``"fade"`` and ``"fade_lite"``.
        width: number of channels of the first level.
        levels: number of times that the map is halved. Global&Local has 2; the U-Net has 8 for
            512x512 pixels and 7 for 256x256.
        skips: whether there are skip connections between encoder and decoder. Section 4.3 calls
            Global&Local a U-Net, although it has no skip connections in reference 15. The U-Net
            always has them.
        norm: normalisation layers. ``"batch"``: BatchNorm with the statistics of each device.
            ``"sync_batch"``: BatchNorm with the statistics of the batch over all devices.
            ``"none"``: no normalisation.
        freeze_encoder_norm: whether the encoder's BatchNorm uses its running averages in training
            and does not update them, as in the second stage of reference 26 (section 4.2), which
            starts from a trained run.
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
        """Raises ``ConfigError`` for fields that do not define a network."""
        check_at_least(self, width=2, levels=1)
        if self.convolution == "partial":
            down, up = self.downsampler, self.upsampler
            fits = down in ("strided", "carafe")
            check(fits, "downsampler", "'strided' or 'carafe' with partial convolutions", down)
            fits = up in ("nearest", "carafe")
            check(fits, "upsampler", "'nearest' or 'carafe' with partial convolutions", up)
        check(self.upsampler in UPSAMPLERS, "upsampler", f"one of {UPSAMPLERS}", self.upsampler)
        fits = self.upsampler in WITHOUT_GATE
        check(fits, "upsampler", "one without a gate: skips have other channels", self.upsampler)
        fits = self.skips or self.upsampler in WITHOUT_GUIDE
        check(fits, "upsampler", "one without a guide if there are no skips", self.upsampler)
        if self.architecture == "unet":
            fits = self.upsampler in _OF_UNET
            check(fits, "upsampler", f"one of {_OF_UNET} in a U-Net", self.upsampler)
            check(self.skips, "skips", "true in a U-Net", self.skips)
        if self.freeze_encoder_norm:
            check(self.norm != "none", "norm", "a BatchNorm, to be frozen", self.norm)
