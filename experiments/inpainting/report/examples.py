"""The few validation images that figures show, and what generators make of them."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from experiments.data.records import RecordError
from experiments.inpainting.configs import DataConfig, InpaintingConfig
from experiments.inpainting.data.batches import InpaintingData, buckets, validation_example
from experiments.inpainting.fill import fill, make_generator
from experiments.inpainting.pixels import to_bytes, to_unit

Example = dict[str, Any]


def spread_examples(data: InpaintingData, config: DataConfig, count: int) -> list[Example]:
    """Validation images from all over the data set, with holes of all sizes in turn.

    Args:
        data: the data set.
        config: of the runs that are shown.
        count: at least 1.

    Returns:
        At most ``count``, as :func:`experiments.inpainting.data.batches.validation_example` gives
        them; for an image that cannot be read the next one with a hole of that size, if there is
        one.
    """
    images, sizes = len(data.validation), len(buckets(config.holes))
    count = min(count, images)
    found: dict[int, Example] = {}
    for turn, start in enumerate(np.linspace(0, max(0, images - sizes), count).round().astype(int)):
        # The sizes take turns: this is the first image from there on that has this turn's.
        for number in range(start + (turn - start) % sizes, images, sizes):
            try:
                example = validation_example(data, config, number)
            except RecordError:
                continue
            found[number] = example
            break
    return list(found.values())


def fill_examples(
    config: InpaintingConfig, variables: Any, examples: Sequence[Example]
) -> UInt8[np.ndarray, "examples height width 3"]:
    """Fills the examples' holes.

    Args:
        config: of the run.
        variables: what :func:`experiments.inpainting.fill.variables_of` gives.
        examples: at least one.
    """
    image, mask = (np.stack([example[key] for example in examples]) for key in ("image", "mask"))
    jitted = jax.jit(fill, static_argnums=0)
    filled = jitted(make_generator(config), variables, to_unit(image), mask.astype(np.float32))
    return to_bytes(np.asarray(filled))
