"""Normalises images as the published ResNets expect them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

# Mean and standard deviation of ImageNet's training images, in [0, 1], for each channel.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(
    image: UInt8[Array, "*batch height width 3"], size: Int[Array, "*batch 2"] | None = None
) -> Float[Array, "*batch height width 3"]:
    """Scales bytes to mean 0 and standard deviation 1 over ImageNet, for each channel.

    Args:
        image: RGB images, uint8 ``[*batch, H, W, 3]``.
        size: height and width of the image within ``image``, from the top left, ``[*batch, 2]``;
            pixels outside become 0, like the padding of a convolution. The default is the whole
            image.
    """
    shape = (1,) * (image.ndim - 1) + (3,)
    mean, std = (255 * jnp.asarray(values, jnp.float32).reshape(shape) for values in (MEAN, STD))
    normalized = (image.astype(jnp.float32) - mean) / std
    if size is None:
        return normalized
    height, width = (size[..., axis][..., None, None, None] for axis in (0, 1))  # [*batch, 1, 1, 1]
    pixels = (*image.shape[:-1], 1)  # [*batch, H, W, 1]
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, pixels, image.ndim - n) for n in (3, 2))
    return jnp.where((rows < height) & (columns < width), normalized, 0)
