"""Figures of a generator's source weights (Fig. 9)."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from experiments.inpainting.prediction.inpainter import TracedImage
from experiments.source_maps.figures import pixels_of, sources_figure
from experiments.source_maps.headings import set_headings
from experiments.source_maps.pathways import DOWNSAMPLERS, UPSAMPLERS, Pathway
from experiments.source_maps.targets import choose_targets

Direction = Literal["down", "up"]

CARAFE = "CARAFE++"
_MOST = 2  # targets of each kind
_HEADINGS = {"inside": "in the hole", "border": "border of the hole", "background": "outside"}
# Resamplers with fixed kernels that a figure shows below CARAFE++.
_OTHER = {"down": ("strided", DOWNSAMPLERS["strided"]), "up": ("nearest", UPSAMPLERS["nearest"])}
_EDGE = 8  # targets outside the hole lie at least an eighth of the image from its edges


class SourceMaps(NamedTuple):
    """A figure of source weights.

    Attributes:
        direction: ``"down"``: from the input to the coarsest map. ``"up"``: from there to the
            finest map.
        pixels: RGB pixels of the figure.
    """

    direction: Direction
    pixels: UInt8[np.ndarray, "height width 3"]


def source_maps(traced: TracedImage, title: str) -> Iterator[SourceMaps]:
    """Draws the pathways of a generator, for targets in the hole, at its border and outside.

    Args:
        traced: an image with the pathways of the generator.
        title: first line of the title of each figure.

    Yields:
        A figure of each pathway that the generator has.
    """
    height, width = traced.mask.shape
    title = f"{title}, as the network reads it: {width}x{height} pixels, the hole is white"
    if traced.pathways.down is not None:
        yield SourceMaps("down", _drawn(traced, "down", traced.pathways.down, title))
    if traced.pathways.up is not None:
        yield SourceMaps("up", _drawn(traced, "up", traced.pathways.up, title))


def with_white_hole(traced: TracedImage) -> UInt8[np.ndarray, "h w 3"]:
    """The image with a white hole, which stands out in most photographs."""
    return np.where(traced.mask[..., None], np.uint8(255), traced.image)


def method_of(pathway: Pathway) -> str:
    """The name of a pathway's resampler."""
    name = pathway.steps[0].name
    return name if name in UPSAMPLERS else CARAFE


def _drawn(
    traced: TracedImage, direction: Direction, pathway: Pathway, title: str
) -> UInt8[np.ndarray, "height width 3"]:
    height, width = traced.mask.shape
    # Numbers below 0 are neither hole nor background.
    regions = np.full((height, width), -1, np.int32)
    top, left = height // _EDGE, width // _EDGE
    regions[top : height - top, left : width - left] = 0
    regions[traced.mask] = 1
    targets = choose_targets(regions, pathway.target_stride, pathway.target_size, _MOST)
    other, make = _OTHER[direction]
    pathways = {method_of(pathway): pathway}
    pathways.setdefault(other, pathway.with_kernels(make))
    figure = sources_figure(with_white_hole(traced), pathways, targets, title)
    set_headings(figure, [_HEADINGS[target.kind] for target in targets])
    return pixels_of(figure)
