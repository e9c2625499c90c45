"""L1 error, PSNR and structural similarity of filled images, over the image and over the hole."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.inpainting.ssim import RADIUS, similarity_map

METRICS = ("l1_image", "l1_hole", "psnr_image", "psnr_hole", "ssim_image", "ssim_hole")

# Without this limit, the PSNR of one exact match would make the mean over all images infinite.
_HIGHEST_PSNR = 100.0


def image_metrics(
    filled: Float[Array, "batch height width channels"],
    original: Float[Array, "batch height width channels"],
    mask: Float[Array, "batch height width 1"],
) -> dict[str, Float[Array, " batch"]]:
    """Metrics of each image of a batch; section 5.1 reports L1 and PSNR.

    Args:
        filled: filled images in [-1, 1], at least 11x11.
        original: original images in [-1, 1], with the same shape.
        mask: masks, 1 in the hole and 0 outside it.

    Returns:
        The metrics of :data:`METRICS`, float32 ``[B]``, each over the image and over its hole:

        - ``l1``: mean absolute error, in percent of the value range.
        - ``psnr``: ``10 log10(range^2 / mean squared error)``, in dB, at most 100.
        - ``ssim``: mean of :func:`experiments.inpainting.ssim.similarity_map`, at most 1. The mean
          over the image leaves out a border of 5 pixels, where the window overlaps the mirrored
          image, as in scikit-image. The mean over the hole includes all its pixels.

        If there is no hole, its metrics are 0 %, 100 dB and 1.

    Raises:
        ValueError: the images are smaller than 11x11.
    """
    error = (filled - original) / 2  # the value range becomes 1
    absolute, squared = (x.mean(-1) for x in (jnp.abs(error), jnp.square(error)))  # [B, H, W]
    dissimilarity = 1 - similarity_map(filled, original)
    inner = dissimilarity[:, RADIUS:-RADIUS, RADIUS:-RADIUS]
    hole = mask[..., 0]
    return {
        "l1_image": 100 * absolute.mean((1, 2)),
        "l1_hole": 100 * _hole_mean(absolute, hole),
        "psnr_image": _psnr(squared.mean((1, 2))),
        "psnr_hole": _psnr(_hole_mean(squared, hole)),
        "ssim_image": 1 - inner.mean((1, 2)),
        "ssim_hole": 1 - _hole_mean(dissimilarity, hole),
    }


def _hole_mean(
    values: Float[Array, "batch height width"], hole: Float[Array, "batch height width"]
) -> Float[Array, " batch"]:
    return (values * hole).sum((1, 2)) / jnp.maximum(hole.sum((1, 2)), 1)


def _psnr(mean_squared_error: Float[Array, " batch"]) -> Float[Array, " batch"]:
    return -10 * jnp.log10(jnp.maximum(mean_squared_error, 10 ** (-_HIGHEST_PSNR / 10)))
