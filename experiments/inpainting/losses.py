"""What generator and discriminator are trained for; every loss is one number an image."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.inpainting.configs import ReconstructionConfig

AdversarialLoss = Literal["hinge", "least_squares"]


def reconstruction(
    prediction: Float[Array, "batch height width 3"],
    filled: Float[Array, "batch height width 3"],
    image: Float[Array, "batch height width 3"],
    mask: Float[Array, "batch height width 1"],
    weights: ReconstructionConfig,
) -> Float[Array, " batch"]:
    """The weighted sum of the terms of :class:`ReconstructionConfig`.

    Args:
        prediction: of the generator, all over the image.
        filled: composed of it and the image.
        image: the original, in [-1, 1].
        mask: 1 in the hole.
        weights: of the terms; one of weight 0 is not computed.
    """
    values = image[0].size
    error = jnp.abs(prediction - image)
    loss = weights.hole * (mask * error).sum((1, 2, 3)) / values
    if weights.valid:
        loss += weights.valid * ((1 - mask) * error).sum((1, 2, 3)) / values
    if weights.total_variation:
        for axis in (1, 2):
            touches = jnp.maximum(*_neighbours(mask, axis))
            upper, lower = _neighbours(filled, axis)
            variation = (touches * jnp.abs(lower - upper)).sum((1, 2, 3))
            loss += weights.total_variation * variation / values
    return loss


def _neighbours(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    size = x.shape[axis]
    first = jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)
    return first, jax.lax.slice_in_dim(x, 1, size, axis=axis)


def hole_shares(
    mask: Float[Array, "batch height width 1"], stride: int
) -> Float[Array, "batch rows columns"]:
    """How much of each cell of ``stride`` pixels is hole; what a cell has outside the image is not.

    Returns:
        ``[B, ceil(H / stride), ceil(W / stride)]`` in [0, 1].
    """
    padded = [(0, -size % stride) for size in mask.shape[1:3]]
    mask = jnp.pad(mask, ((0, 0), *padded, (0, 0)))
    batch, height, width, _ = mask.shape
    cells = mask.reshape(batch, height // stride, stride, width // stride, stride)
    return cells.mean((2, 4))


def discriminator_loss(
    real: Float[Array, "batch rows columns"],
    fake: Float[Array, "batch rows columns"],
    shares: Float[Array, "batch rows columns"],
    loss: AdversarialLoss,
) -> Float[Array, " batch"]:
    """What the discriminator minimises.

    Args:
        real: logits of original images.
        fake: logits of filled ones.
        shares: how much of each patch is hole; not 0 for all of an image.
        loss: ``"hinge"`` or ``"least_squares"``.
    """
    if loss == "hinge":
        return _mean(nn.relu(1 - real) + nn.relu(1 + fake), shares)
    return _mean((jnp.square(real - 1) + jnp.square(fake)) / 2, shares)


def generator_loss(
    fake: Float[Array, "batch rows columns"],
    shares: Float[Array, "batch rows columns"],
    loss: AdversarialLoss,
) -> Float[Array, " batch"]:
    """What the discriminator's judgement adds to the generator's loss; see the other one."""
    return _mean(-fake if loss == "hinge" else jnp.square(fake - 1) / 2, shares)


def _mean(values: jax.Array, shares: jax.Array) -> jax.Array:
    return (values * shares).sum((1, 2)) / shares.sum((1, 2))
