"""Losses of generator and discriminator; each loss is one number for each image."""

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
        prediction: the generator's prediction of the whole image, in [-1, 1].
        filled: image composed of the original and the prediction, in [-1, 1].
        image: original image, in [-1, 1].
        mask: mask, 1 in the hole and 0 outside it.
        weights: weights of the terms. A term with weight 0 is not computed.

    Returns:
        The loss of each image, ``[B]``.
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
    """The fraction of each block of ``stride x stride`` pixels that lies in the hole.

    Pixels of a block beyond the border of the image count as outside the hole.

    Returns:
        Fractions in [0, 1], ``[B, ceil(H / stride), ceil(W / stride)]``.
    """
    padded = [(0, -size % stride) for size in mask.shape[1:3]]
    mask = jnp.pad(mask, ((0, 0), *padded, (0, 0)))
    batch, height, width, _ = mask.shape
    blocks = mask.reshape(batch, height // stride, stride, width // stride, stride)
    return blocks.mean((2, 4))


def discriminator_loss(
    real: Float[Array, "batch rows columns"],
    fake: Float[Array, "batch rows columns"],
    shares: Float[Array, "batch rows columns"],
    loss: AdversarialLoss,
) -> Float[Array, " batch"]:
    """The loss that the discriminator minimises.

    Args:
        real: logits of the patches of original images.
        fake: logits of the patches of filled images.
        shares: fraction of each patch that lies in the hole; not 0 for all patches of an image.
        loss: kind of the loss, ``"hinge"`` or ``"least_squares"``.

    Returns:
        The loss of each image, ``[B]``.
    """
    if loss == "hinge":
        return _mean(nn.relu(1 - real) + nn.relu(1 + fake), shares)
    return _mean((jnp.square(real - 1) + jnp.square(fake)) / 2, shares)


def generator_loss(
    fake: Float[Array, "batch rows columns"],
    shares: Float[Array, "batch rows columns"],
    loss: AdversarialLoss,
) -> Float[Array, " batch"]:
    """The generator's adversarial loss; the arguments are as in :func:`discriminator_loss`."""
    return _mean(-fake if loss == "hinge" else jnp.square(fake - 1) / 2, shares)


def _mean(values: jax.Array, shares: jax.Array) -> jax.Array:
    return (values * shares).sum((1, 2)) / shares.sum((1, 2))
