"""Fills holes in images with a generator."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.engine.parallel import AXIS
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.model import generators
from experiments.inpainting.model.generators import Generator


def make_generator(config: InpaintingConfig) -> Generator:
    """The generator of a config."""
    return generators.build_generator(config.model, jnp.dtype(config.dtype), AXIS)


def stride_of(config: InpaintingConfig) -> int:
    """The stride of the generator's coarsest map, in pixels of the image."""
    return 2**config.model.levels


def compose(
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
    prediction: Float[Array, "batch height width 3"],
) -> Float[Array, "batch height width 3"]:
    """``y = (1 - M) x + M y_hat`` (section 5.1): pixels outside the hole do not change."""
    return (1 - mask) * image + mask * prediction


def fill(
    model: Generator,
    variables: Any,
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
) -> Float[Array, "batch height width 3"]:
    """Fills the holes of images; the pixels of ``image`` in the hole are ignored.

    Args:
        model: the generator.
        variables: parameters and running averages of the generator; see :func:`variables_of`.
        image: images in [-1, 1], ``[B, H, W, 3]``.
        mask: masks, 1 in the hole, ``[B, H, W, 1]``.

    Returns:
        The composed images, float32 in [-1, 1], ``[B, H, W, 3]``.
    """
    return compose(image, mask, model.apply(variables, image, mask))


def variables_of(state: dict[str, Any]) -> dict[str, Any]:
    """The generator's variables for :func:`fill`; if the state has averages, the averages.

    Args:
        state: state of a run; see :func:`experiments.inpainting.task.initial_state`.
    """
    if "average" in state:
        return dict(state["average"])
    return {"params": state["generator"]["params"], **state["generator"]["model_state"]}
