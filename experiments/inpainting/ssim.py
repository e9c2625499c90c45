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
    """Structural similarity around each pixel, in the mean over the channels.

    With means ``u``, variances ``v`` and covariance ``c`` of the two images under a Gaussian window
    of 11x11 taps and standard deviation 1.5, and with values in [0, 1]::

        S = (2 u_x u_y + 0.01^2) / (u_x^2 + u_y^2 + 0.01^2)
            * (2 c + 0.03^2) / (v_x + v_y + 0.03^2)

    At the border the images are mirrored, the outermost pixels included. This is the whole map of
    scikit-image's ``structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, full=True)``.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", IEEE Transactions on Image Processing 13 (4), 2004, equation 13.

    Args:
        image: in [-1, 1], at least 11x11.
        other: in [-1, 1], of the same shape.

    Returns:
        ``[B, H, W]``, float32, at most 1, and exactly 1 where nothing under the window differs.

    Raises:
        ValueError: the images are smaller than the window.
    """
    height, width = image.shape[1:3]
    if min(height, width) < WINDOW:
        raise ValueError(
            f"image must be at least {WINDOW}x{WINDOW} for structural similarity, got "
            f"{height}x{width}"
        )
    # The value range becomes 1. Its middle is 0: variances are what is left when one square is
    # taken from another, and there the squares are smallest.
    x, y = image.astype(jnp.float32) / 2, other.astype(jnp.float32) / 2
    error = x - y
    maps = jnp.concatenate([x, error, x * x + y * y, error * error], axis=-1)
    u_x, u_error, squares, error_squares = jnp.split(_window_means(maps), 4, axis=-1)
    u_y = u_x - u_error
    variances = jnp.maximum(squares - u_x**2 - u_y**2, 0)
    error_variance = jnp.maximum(error_squares - u_error**2, 0)
    # 2 a b = a^2 + b^2 - (a - b)^2, and so for covariances: 1 less what differs is exact at 1.
    luminance = 1 - u_error**2 / ((u_x + 0.5) ** 2 + (u_y + 0.5) ** 2 + _C1)
    structure = 1 - error_variance / (variances + _C2)
    return (luminance * structure).mean(-1)


def _window_means(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width channels"]:
    # Products with dense matrices: on a CPU ten times as fast as convolutions channel by channel.
    # By default accelerators round the factors of either.
    rows, columns = (_window_matrix(side) for side in x.shape[1:3])
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision="highest")
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision="highest")


def _window_matrix(side: int) -> Float[np.ndarray, "side side"]:
    """What takes the window's mean along an axis; the window is a product of two such."""
    taps = np.exp(-0.5 * (np.arange(-RADIUS, RADIUS + 1) / _SIGMA) ** 2)
    taps /= taps.sum()
    mirrored = np.pad(np.eye(side), ((RADIUS, RADIUS), (0, 0)), mode="symmetric")
    rows = [mirrored[n : n + side] for n in range(WINDOW)]
    return np.tensordot(taps, np.stack(rows), axes=1).astype(np.float32)
