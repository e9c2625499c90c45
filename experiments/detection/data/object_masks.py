"""Masks of objects, relative to their boxes: their size does not depend on the image."""

import math

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from experiments.data.coco_masks import decompressed

# Largest relative rounding error of a sum that should be a half.
_ROUNDING = 1e-9


def decode_mask(counts: str, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """Decodes COCO's compressed run lengths to a mask of the whole image, 0 or 1.

    Args:
        counts: compressed run lengths as in COCO's results; not empty.
        height: height of the image in pixels.
        width: width of the image in pixels.

    Raises:
        ValueError: ``counts`` is not a run-length code of ``height * width`` pixels.
    """
    # Not pycocotools: its numpy calls warn, and for broken run lengths it returns uninitialised
    # memory.
    lengths = decompressed(counts)  # of 0, of 1, of 0, ..., column by column
    mask = np.repeat(np.arange(len(lengths), dtype=np.uint8) % 2, lengths)  # [W * H]
    return mask.reshape(width, height).T


def box_mask(
    mask: UInt8[np.ndarray, "height width"], box: Float[np.ndarray, "4"], side: int
) -> UInt8[np.ndarray, "side side"]:
    """Crops a mask to a box and resamples it.

    A grid divides the box into bins. A bin is 1 if the mask covers at least half of its area. The
    covered areas are exact, also for boxes with fractional coordinates, and mirroring commutes with
    cropping. Filters that sample at pixel centres, such as Pillow's, have neither property.

    Args:
        mask: mask of the whole image, 0 or 1, ``[H, W]``.
        box: x1, y1, x2, y2 in pixels; it lies within the image and has a positive area.
        side: number of rows and columns of the grid over the box.

    Returns:
        The resampled mask, 0 or 1, ``[side, side]``.
    """
    x1, y1, x2, y2 = (float(edge) for edge in box)
    by_column = _bin_sums(mask.T, x1, x2, side)  # [side, H]
    covered = _bin_sums(by_column.T, y1, y2, side)  # [side, side]
    bin_area = (x2 - x1) * (y2 - y1) / side**2
    return (covered >= (0.5 - _ROUNDING) * bin_area).astype(np.uint8)


def _bin_sums(
    values: Shaped[np.ndarray, "pixels n"], start: float, stop: float, side: int
) -> Float[np.ndarray, "side n"]:
    """Integrates over each of ``side`` equal bins of an interval."""
    first, last = math.floor(start), math.ceil(stop)
    values = values[first:last]
    until = np.zeros((len(values) + 1, values.shape[1]), np.result_type(values, np.int32))
    np.cumsum(values, axis=0, out=until[1:])
    edges = np.linspace(start - first, stop - first, side + 1)
    pixels = np.minimum(edges.astype(np.int64), len(values) - 1)
    # Within a pixel the integral is linear.
    at_edges = until[pixels] + (edges - pixels)[:, None] * values[pixels]
    return np.diff(at_edges, axis=0)
