"""Masks of objects, relative to their boxes: of one size, however large the image is."""

import math

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from experiments.data.coco_masks import decompressed

# Sums that should be a half miss it by less.
_ROUNDING = 1e-9


def decode_mask(counts: str, height: int, width: int) -> UInt8[np.ndarray, "height width"]:
    """The mask, 0 or 1, of a whole image that COCO's compressed run lengths stand for.

    Args:
        counts: as COCO's results have it; not empty.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: they are no run lengths, or not of ``height * width`` pixels.
    """
    # pycocotools would do, but its numpy calls warn, and broken run lengths give what memory held.
    lengths = decompressed(counts)  # of 0, of 1, of 0, ..., column by column
    mask = np.repeat(np.arange(len(lengths), dtype=np.uint8) % 2, lengths)  # [W * H]
    return mask.reshape(width, height).T


def box_mask(
    mask: UInt8[np.ndarray, "height width"], box: Float[np.ndarray, "4"], side: int
) -> UInt8[np.ndarray, "side side"]:
    """Crops a mask to a box and resamples it: 1 for cells of which the mask covers half or more.

    Shares of area are exact for boxes between pixels too, and a box's mask mirrored is the mirrored
    box's mask. Neither holds for filters that look at pixel centres, such as Pillow's.

    Args:
        mask: 0 or 1, ``[H, W]``.
        box: x1, y1, x2, y2 in pixels, within the image and of some area.
        side: rows and columns of the grid over the box.
    """
    x1, y1, x2, y2 = (float(edge) for edge in box)
    by_column = _cell_sums(mask.T, x1, x2, side)  # [side, H]
    pixels = _cell_sums(by_column.T, y1, y2, side)  # [side, side]
    cell = (x2 - x1) * (y2 - y1) / side**2
    return (pixels >= (0.5 - _ROUNDING) * cell).astype(np.uint8)


def _cell_sums(
    values: Shaped[np.ndarray, "pixels n"], start: float, stop: float, side: int
) -> Float[np.ndarray, "side n"]:
    """Integrates over each of the cells that an interval is cut into."""
    first, last = math.floor(start), math.ceil(stop)
    values = values[first:last]
    until = np.zeros((len(values) + 1, values.shape[1]), np.result_type(values, np.int32))
    np.cumsum(values, axis=0, out=until[1:])
    edges = np.linspace(start - first, stop - first, side + 1)
    pixels = np.minimum(edges.astype(np.int64), len(values) - 1)
    # Within a pixel the integral grows evenly.
    at_edges = until[pixels] + (edges - pixels)[:, None] * values[pixels]
    return np.diff(at_edges, axis=0)
