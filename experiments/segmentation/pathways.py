"""The pathways of a segmenter: top-down in UperNet's head, and bottom-up in the backbone."""

from typing import NamedTuple

import jax

from carafe_jax.linen import collect_reassemblies
from experiments.engine.config import ConfigError
from experiments.engine.step import State
from experiments.models.input_normalization import normalize
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.segmenter import Segmenter
from experiments.source_maps.pathways import (
    KNOWN_UPSAMPLERS,
    Pathway,
    bottom_up,
    fixed_top_down,
    map_size,
    pick,
)

_FINEST, _COARSEST = 2, 5


class Observed(NamedTuple):
    """The pathways of one image.

    Attributes:
        up: from P5 to P2 in UperNet's head; None for another head, or if the source weights of the
            upsampler are not known.
        down: from the input of the backbone's pool to the last map that it downsamples; None if the
            downsampler is not CARAFE++.
    """

    up: Pathway | None
    down: Pathway | None


def has_up(config: SegmenterConfig) -> bool:
    """Whether the source weights of a network's top-down pathway are known."""
    return config.architecture == "upernet" and config.fpn in KNOWN_UPSAMPLERS


def has_down(config: SegmenterConfig) -> bool:
    """Whether the source weights of a network's backbone are known."""
    return config.backbone.downsampler == "carafe"


def check_has_pathways(config: SegmenterConfig) -> None:
    """Raises ``ConfigError`` if a network has no pathway whose source weights are known.

    Args:
        config: config of the network.
    """
    if not (has_up(config) or has_down(config)):
        raise ConfigError(
            "run must have an upernet with 'carafe', 'nearest' or 'bilinear' in its top-down "
            "pathway (model.fpn), or 'carafe' in its backbone (model.backbone.downsampler), for "
            "maps: the source weights of other resamplers are not known; got "
            f"{config.architecture} with {config.fpn!r} and {config.backbone.downsampler!r}"
        )


def observe(model: Segmenter, state: State, image: jax.Array) -> Observed:
    """Collects the pathways of a network on an image.

    Args:
        model: network of the run.
        state: state of the run, with ``params`` and ``model_state``.
        image: RGB image, uint8 ``[1, H, W, 3]``.
    """
    config = model.config
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    x = normalize(image, config.backbone.input)
    _, found = collect_reassemblies(model, variables, x)
    found = jax.tree.map(lambda kernels: kernels[0], found)
    height, width = image.shape[1:3]
    sizes = [map_size((height, width), 2**level) for level in range(_FINEST, _COARSEST + 1)]
    up = None
    if has_up(config) and config.fpn != "carafe":
        up = fixed_top_down(sizes, config.fpn)
    elif has_up(config):
        names = [f"fpn_upsample_{level}" for level in range(_COARSEST, _FINEST, -1)]
        up = Pathway(
            name=f"P{_COARSEST} to P{_FINEST}",
            steps=pick(found, names, "head"),
            source_stride=2**_COARSEST,
            target_stride=2**_FINEST,
            target_size=sizes[0],
        )
    return Observed(up, bottom_up(found))
