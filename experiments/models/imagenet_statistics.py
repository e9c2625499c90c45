"""Bytes of images as the inputs that every published ResNet was trained on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

# Of ImageNet's training images, in [0, 1], channel by channel.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(
    image: UInt8[Array, "*batch height width 3"], size: Int[Array, "*batch 2"] | None = None
) -> Float[Array, "*batch height width 3"]:
    """Scales bytes to mean 0 and standard deviation 1, channel by channel over ImageNet.

    Args:
        image: of bytes.
        size: height and width of what in the top left is the image; the rest becomes 0, as where a
            convolution pads. All of it by default.
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
