"""Scales a picture down to be filled, and what was filled up again, some rows at a time."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

_ROWS = 16  # of the smaller image at a time
_LEAST_SEEN = 1e-6

_Box = tuple[float, float, float, float]  # left, top, right, bottom


def shrink(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], shorter_side: int
) -> tuple[UInt8[np.ndarray, "h2 w2 3"], Bool[np.ndarray, "h2 w2"]]:
    """Scales a picture with a hole so that its shorter side has a length.

    A pixel of the small image is the mean of what is seen of its area, so nothing of the hole
    bleeds into it. It belongs to the hole if nothing of it is seen.

    Args:
        image: ``[H, W, 3]``.
        mask: ``[H, W]``, true in the hole.
        shorter_side: in pixels, at most the picture's own.

    Returns:
        The small image, black in the hole, and its mask.
    """
    height, width = mask.shape
    scale = shorter_side / min(height, width)
    rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
    small_image = np.zeros((rows, columns, 3), np.uint8)
    small_mask = np.empty((rows, columns), bool)
    for here, source, box in _strips(rows, height, width):
        seen = (~mask[source]).astype(np.float32)
        size = columns, here.stop - here.start

        share = _area_mean(seen, size, box)
        small_mask[here] = share < _LEAST_SEEN
        for channel in range(3):
            mean = _area_mean(image[source, :, channel] * seen, size, box)
            mean /= np.maximum(share, _LEAST_SEEN)
            small_image[here, :, channel] = np.clip(np.round(mean), 0, 255)
    small_image[small_mask] = 0
    return small_image, small_mask


def paste_enlarged(
    small: UInt8[np.ndarray, "h2 w2 3"],
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
) -> None:
    """Scales a small image up, bicubically, and writes it into the hole of a large one.

    Args:
        small: ``[H', W', 3]``.
        image: ``[H, W, 3]``, is written to.
        mask: ``[H, W]``, true in the hole.
    """
    height, width = mask.shape
    rows = len(small)
    # Which axis Pillow scales first depends on sizes, and clips in between: here it is columns.
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
    """Rows of the small image, with those of the large one that they show, and where in these."""
    scale = height / rows
    for top in range(0, rows, _ROWS):
        bottom = min(top + _ROWS, rows)
        first, last = int(top * scale), min(height, int(np.ceil(bottom * scale)))
        box = 0, top * scale - first, width, min(bottom * scale, height) - first
        yield slice(top, bottom), slice(first, last), box
