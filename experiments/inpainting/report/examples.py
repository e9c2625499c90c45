"""Selects a few validation images for figures, and fills their holes."""

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
    """Selects validation images spread over the dataset, cycling through the hole sizes.

    Args:
        data: the dataset.
        config: config of the data.
        count: number of images, at least 1.

    Returns:
        At most ``count`` examples from
        :func:`experiments.inpainting.data.batches.validation_example`. An image that cannot be read
        is replaced by the next one with a hole of the same size, if there is one.
    """
    images, sizes = len(data.validation), len(buckets(config.holes))
    count = min(count, images)
    found: dict[int, Example] = {}
    for turn, start in enumerate(np.linspace(0, max(0, images - sizes), count).round().astype(int)):
        # Begin with the first image, from ``start`` on, that has this turn's hole size.
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
    """Fills the holes of examples.

    Args:
        config: config of the run.
        variables: variables from :func:`experiments.inpainting.fill.variables_of`.
        examples: examples from :func:`spread_examples`, at least one.
    """
    image, mask = (np.stack([example[key] for example in examples]) for key in ("image", "mask"))
    jitted = jax.jit(fill, static_argnums=0)
    filled = jitted(make_generator(config), variables, to_unit(image), mask.astype(np.float32))
    return to_bytes(np.asarray(filled))
