"""Figures of a generator's source weights (Fig. 9)."""

from typing import Literal

import numpy as np

from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.pathways import check_has_pathways, has_down, has_up
from experiments.inpainting.pixels import with_white_hole
from experiments.inpainting.prediction.inpainter import TracedImage
from experiments.source_maps.figures import Pixels, pixels_of, sources_figure
from experiments.source_maps.instances import OUTSIDE
from experiments.source_maps.pathways import (
    BESIDE_DOWN,
    BESIDE_UP,
    CARAFE,
    UPSAMPLERS,
    Pathway,
    compared,
)
from experiments.source_maps.targets import choose_targets

Direction = Literal["down", "up"]

_MOST = 2  # targets of each kind
_HEADINGS = {"inside": "in the hole", "border": "border of the hole", "background": "outside"}
_BESIDE = {"down": BESIDE_DOWN, "up": BESIDE_UP}
_EDGE = 8  # targets outside the hole lie at least an eighth of the image from its edges


def directions(config: GeneratorConfig) -> tuple[Direction, ...]:
    """The pathways that the figures show.

    Args:
        config: config of the generator.

    Raises:
        ConfigError: the generator has no pathway.
    """
    check_has_pathways(config)
    found: list[Direction] = []
    if has_down(config):
        found.append("down")
    if has_up(config):
        found.append("up")
    return tuple(found)


def draw_maps(traced: TracedImage, direction: Direction, title: str) -> Pixels:
    """Draws a pathway of a generator, for targets in the hole, at its border and outside.

    Args:
        traced: an image with the pathways of the generator.
        direction: ``"down"``: from the input to the coarsest map. ``"up"``: from there to the
            finest map. See :func:`directions`.
        title: first line of the title.
    """
    pathway = traced.pathways.down if direction == "down" else traced.pathways.up
    assert pathway is not None
    height, width = traced.mask.shape
    regions = np.full((height, width), OUTSIDE, np.int32)
    top, left = height // _EDGE, width // _EDGE
    regions[top : height - top, left : width - left] = 0
    regions[traced.mask] = 1
    targets = choose_targets(regions, pathway.target_stride, pathway.target_size, _MOST)
    figure = sources_figure(
        with_white_hole(traced.image, traced.mask),
        compared(pathway, _BESIDE[direction], method_of(pathway)),
        targets,
        f"{title}, as the network reads it: {width}x{height} pixels, the hole is white",
        [_HEADINGS[target.kind] for target in targets],
    )
    return pixels_of(figure)


def method_of(pathway: Pathway) -> str:
    """The name of a pathway's resampler."""
    name = pathway.steps[0].name
    return name if name in UPSAMPLERS else CARAFE
