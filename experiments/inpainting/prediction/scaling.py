"""Scales an image down before it is filled, and its fill up again, a few rows at a time."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

_ROWS = 16  # number of rows that are processed at a time
_MIN_VISIBLE_SHARE = 1e-6

_Box = tuple[float, float, float, float]  # left, top, right, bottom


def shrink(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], shorter_side: int
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Bool[np.ndarray, "h2 w2"]]:
    """Scales an image with a hole down to a given shorter side.

    A pixel of the small image is the mean over the pixels of its area that lie outside the hole, so
    the hole does not bleed into it. It belongs to the hole if its whole area does.

    Args:
        image: RGB image ``[H, W, 3]``.
        mask: mask ``[H, W]``, true in the hole.
        shorter_side: shorter side of the small image in pixels, at most the image's own.

    Returns:
        The small image, black in the hole, and its mask.
    """
    height, width = mask.shape
    scale = shorter_side / min(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    small_image = np.zeros((rows, columns, 3), np.uint8)
    small_mask = np.empty((rows, columns), bool)
    for target, source, box in _strips(rows, height, width):
        visible = (~mask[source]).astype(np.float32)
        size = columns, target.stop - target.start

        share = _area_mean(visible, size, box)
        small_mask[target] = share < _MIN_VISIBLE_SHARE
        for channel in range(3):
            mean = _area_mean(image[source, :, channel] * visible, size, box)
            mean /= np.maximum(share, _MIN_VISIBLE_SHARE)
            small_image[target, :, channel] = np.clip(np.round(mean), 0, 255)
    small_image[small_mask] = 0
    return small_image, small_mask


def paste_enlarged(
    small: UInt8[np.ndarray, "h2 w2 3"],
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
) -> None:
    """Scales a small image up bicubically, and writes it into the hole of a large image in place.

    Args:
        small: small image ``[H', W', 3]``.
        image: large image ``[H, W, 3]``, which is modified.
        mask: mask ``[H, W]``, true in the hole.
    """
    height, width = mask.shape
    rows = len(small)
    # Pillow chooses the axis that it scales first by the sizes, and clips after each axis. Scaling
    # columns first, explicitly, gives the same result for every strip.
    wide = Image.fromarray(small).resize((width, rows), Image.Resampling.BICUBIC)
    for top in range(0, height, _ROWS):
        hole = mask[top : top + _ROWS]
        if hole.any():
            bottom = top + len(hole)
            box = 0, top * rows / height, width, bottom * rows / height
            strip = wide.resize((width, len(hole)), Image.Resampling.BICUBIC, box)
            image[top:bottom][hole] = np.asarray(strip)[hole]


def _area_mean(values: np.ndarray, size: tuple[int, int], box: _Box) -> np.ndarray:
    return np.array(Image.fromarray(values).resize(size, Image.Resampling.BOX, box))


def _strips(rows: int, height: int, width: int) -> Iterator[tuple[slice, slice, _Box]]:
    """Slices of the small image's rows, slices of the large image's rows, and boxes within them."""
    scale = height / rows
    for top in range(0, rows, _ROWS):
        bottom = min(top + _ROWS, rows)
        first, last = int(top * scale), min(height, int(np.ceil(bottom * scale)))
        box = 0, top * scale - first, width, min(bottom * scale, height) - first
        yield slice(top, bottom), slice(first, last), box
