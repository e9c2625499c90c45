"""The pixels near borders between classes, on which upsamplers differ most."""

import functools

import numpy as np
from jaxtyping import Bool, UInt8


def border_pixels(
    labels: UInt8[np.ndarray, "*images height width"], distance: int
) -> Bool[np.ndarray, "*images height width"]:
    """Whether a pixel has another label within a distance of it.

    Args:
        labels: label maps ``[*images, H, W]``. The value of pixels without a class counts as a
            label.
        distance: greatest distance in pixels, at least 1: the larger of the distances along the two
            axes.

    Returns:
        True for each pixel for which a pixel with another label is at most ``distance`` away.
    """
    return _extreme(labels, distance, np.maximum) != _extreme(labels, distance, np.minimum)


def _extreme(
    labels: UInt8[np.ndarray, "*images height width"], distance: int, function: np.ufunc
) -> UInt8[np.ndarray, "*images height width"]:
    """The extreme label in the window around each pixel."""
    for axis in (-2, -1):
        last = np.moveaxis(labels, axis, -1)
        # Beyond the borders of the image, pixels that are in the window anyway are repeated.
        margins = [(0, 0)] * (labels.ndim - 1) + [(distance, distance)]
        padded, count = np.pad(last, margins, mode="edge"), last.shape[-1]
        shifted = (padded[..., shift : shift + count] for shift in range(2 * distance + 1))
        labels = np.moveaxis(functools.reduce(function, shifted), -1, axis)
    return labels
