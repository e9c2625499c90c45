"""The pathways of a detector: top-down in its pyramid, and bottom-up in its backbone."""

from typing import NamedTuple

import jax

from carafe_jax.linen import collect_reassemblies
from experiments.detection.model.detector import Detector
from experiments.engine.step import State
from experiments.models.input_normalization import normalize
from experiments.source_maps.pathways import Pathway, bottom_up, top_down

_LEVELS = 4  # P2 to P5


class Observed(NamedTuple):
    """The pyramid of a batch of images, and the reassemblies that led to it.

    Attributes:
        levels: P2, P3, P4 and P5, ``[B, H, W, C]``.
        up: pathway from P5 to P2; None if the pyramid has no CARAFE++.
        down: pathway from the input of the backbone's pool to C5; None if the backbone has no
            CARAFE++.
    """

    levels: tuple[jax.Array, ...]
    up: Pathway | None
    down: Pathway | None


def observe(model: Detector, state: State, image: jax.Array, size: jax.Array) -> Observed:
    """Computes the feature pyramid of uint8 images, and collects the reassemblies on the way.

    Args:
        model: network of the run.
        state: parameters and statistics of the run.
        image: images ``[B, H, W, 3]``, padded to a bucket.
        size: height and width of each image without its padding, ``[B, 2]``.
    """
    variables = {"params": state["params"], **state["model_state"]}
    normalized = normalize(image, model.config.backbone.input, size)
    pyramid, found = collect_reassemblies(model, variables, normalized, method="features")
    levels = pyramid[:_LEVELS]
    sizes = [(level.shape[1], level.shape[2]) for level in levels]
    return Observed(levels, top_down(found, sizes), bottom_up(found))
