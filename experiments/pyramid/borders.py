"""The pixels near borders between classes, on which upsamplers differ most."""

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage


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
    size = (1,) * (labels.ndim - 2) + (2 * distance + 1,) * 2
    # Beyond the borders of the image, "nearest" repeats pixels that are in the window anyway.
    highest = ndimage.maximum_filter(labels, size, mode="nearest")
    lowest = ndimage.minimum_filter(labels, size, mode="nearest")
    return highest != lowest
