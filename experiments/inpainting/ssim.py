"""Structural similarity of images (Wang et al. 2004), pixel by pixel."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Section III-B of the paper: a Gaussian window, and constants for a value range of 1.
_SIGMA = 1.5
RADIUS = 5
WINDOW = 2 * RADIUS + 1
_C1, _C2 = 0.01**2, 0.03**2


def similarity_map(
    image: Float[Array, "batch height width channels"],
    other: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width"]:
    """Structural similarity around each pixel, averaged over the channels.

    For values in [0, 1], with means ``u``, variances ``v`` and covariance ``c`` of the two images
    under a Gaussian window of 11x11 pixels with standard deviation 1.5, it is::

        S = (2 u_x u_y + 0.01^2) / (u_x^2 + u_y^2 + 0.01^2)
            * (2 c + 0.03^2) / (v_x + v_y + 0.03^2)

    Images are mirrored at the border, including the outermost pixels. The result equals the full
    map of scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, full=True)``.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", IEEE Transactions on Image Processing 13 (4), 2004, equation 13.

    Args:
        image: images in [-1, 1], at least 11x11.
        other: images in [-1, 1], with the same shape.

    Returns:
        Similarities, float32 ``[B, H, W]``, at most 1, and exactly 1 where the images are equal
        under the window.

    Raises:
        ValueError: the images are smaller than the window.
    """
    height, width = image.shape[1:3]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"image must be at least {WINDOW}x{WINDOW} for structural similarity, got "
            f"{height}x{width}"
        )
    # The value range becomes 1, centred on 0. Variances are differences of squares, and around 0
    # the squares are smallest, which limits the rounding error.
    x, y = image.astype(jnp.float32) / 2, other.astype(jnp.float32) / 2
    error = x - y
    maps = jnp.concatenate([x, error, x * x + y * y, error * error], axis=-1)
    u_x, u_error, squares, error_squares = jnp.split(_window_means(maps), 4, axis=-1)
    u_y = u_x - u_error
    variances = jnp.maximum(squares - u_x**2 - u_y**2, 0)
    error_variance = jnp.maximum(error_squares - u_error**2, 0)
    # 2 a b = a^2 + b^2 - (a - b)^2, and the same holds for covariances. Written as 1 minus a
    # difference, the similarity of equal images is exactly 1.
    luminance = 1 - u_error**2 / ((u_x + 0.5) ** 2 + (u_y + 0.5) ** 2 + _C1)
    structure = 1 - error_variance / (variances + _C2)
    return (luminance * structure).mean(-1)


def _window_means(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    # On a CPU, products with dense matrices are ten times faster than depthwise convolutions.
    # "highest", because by default accelerators round the factors of products and convolutions.
    rows, columns = (_window_matrix(side) for side in x.shape[1:3])
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision="highest")
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision="highest")


def _window_matrix(side: int) -> Float[np.ndarray, "side side"]:
    """The matrix that computes the window's mean along one axis; the window is separable."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / _SIGMA) ** 2)
    taps /= taps.sum()
    mirrored = np.pad(np.eye(side), ((RADIUS, RADIUS), (0, 0)), mode="symmetric")
    rows = [mirrored[n : n + side] for n in range(WINDOW)]
    return np.tensordot(taps, np.stack(rows), axes=1).astype(np.float32)
