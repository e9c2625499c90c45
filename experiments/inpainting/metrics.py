"""L1 error and PSNR of filled images (section 5.1), over the image and over the hole."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# PSNR of an exact match would be infinite, and with it the mean over the images.
_HIGHEST_PSNR = 100.0


def image_metrics(
    filled: Float[Array, "batch height width channels"],
    original: Float[Array, "batch height width channels"],
    mask: Float[Array, "batch height width 1"],
) -> dict[str, Float[Array, " batch"]]:
    """Metrics of each image of a batch.

    Args:
        filled: composed output, in [-1, 1].
        original: in [-1, 1].
        mask: 1 in the hole, which is not empty.

    Returns:
        ``l1_percent``: mean absolute error in percent of the value range, over the image.
        ``psnr_image`` and ``psnr_hole``: in dB, over the image and over the hole, at most 100.
    """
    error = (filled - original) / 2  # the value range becomes 1
    squared = jnp.square(error)
    channels = original.shape[-1]
    hole_squared = (squared * mask).sum((1, 2, 3)) / (mask.sum((1, 2, 3)) * channels)
    return {
        "l1_percent": 100 * jnp.abs(error).mean((1, 2, 3)),
        "psnr_image": _psnr(squared.mean((1, 2, 3))),
        "psnr_hole": _psnr(hole_squared),
    }


def _psnr(mean_squared_error: jax.Array) -> jax.Array:
    return -10 * jnp.log10(jnp.maximum(mean_squared_error, 10 ** (-_HIGHEST_PSNR / 10)))
