"""Normalises images as a network expects them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from experiments.models.input_config import InputConfig


def normalize(
    image: UInt8[Array, "*batch height width 3"],
    config: InputConfig,
    size: Int[Array, "*batch 2"] | None = None,
) -> Float[Array, "*batch height width 3"]:
    """Orders the channels of images, subtracts the mean and divides by the standard deviation.

    Args:
        image: RGB images, uint8 ``[*batch, H, W, 3]``.
        config: order of the channels, mean and standard deviation; ``ResNetConfig.input`` of the
            network.
        size: height and width of the image within ``image``, from the top left, ``[*batch, 2]``;
            pixels outside become 0, like the padding of a convolution. The default is the whole
            image.

    Returns:
        Images in float32, with channels in the order of ``config``.
    """
    shape = (1,) * (image.ndim - 1) + (3,)
    mean, std = (
        jnp.asarray(values, jnp.float32).reshape(shape) for values in (config.mean, config.std)
    )
    if config.channels == "bgr":
        image = image[..., ::-1]
    normalized = (image.astype(jnp.float32) - mean) / std
    if size is None:
        return normalized
    height, width = (size[..., axis][..., None, None, None] for axis in (0, 1))  # [*batch, 1, 1, 1]
    pixels = (*image.shape[:-1], 1)  # [*batch, H, W, 1]
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, pixels, image.ndim - n) for n in (3, 2))
    return jnp.where((rows < height) & (columns < width), normalized, 0)
