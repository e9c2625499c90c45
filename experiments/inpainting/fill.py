"""From an image with a hole to the filled image, by a generator."""

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
    """The pixels that a pixel of the coarsest map stands for, each way."""
    return 2**config.model.levels


def compose(
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
    prediction: Float[Array, "batch height width 3"],
) -> Float[Array, "batch height width 3"]:
    """``y = (1 - M) x + M y_hat`` (section 5.1): what is seen stays as it is."""
    return (1 - mask) * image + mask * prediction


def fill(
    model: Generator,
    variables: Any,
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
) -> Float[Array, "batch height width 3"]:
    """Fills the holes of images; what ``image`` holds in the hole has no influence.

    Args:
        model: the generator.
        variables: its parameters and running averages; see :func:`variables_of`.
        image: ``[B, H, W, 3]`` in [-1, 1].
        mask: ``[B, H, W, 1]``, 1 in the hole.

    Returns:
        The composed image, float32 in [-1, 1].
    """
    return compose(image, mask, model.apply(variables, image, mask))


def variables_of(state: dict[str, Any]) -> dict[str, Any]:
    """What :func:`fill` needs of a run's state: the averaged generator, where the run keeps one.

    Args:
        state: what :func:`experiments.inpainting.task.initial_state` gives.
    """
    if "average" in state:
        return dict(state["average"])
    return {"params": state["generator"]["params"], **state["generator"]["model_state"]}
