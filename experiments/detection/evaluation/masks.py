"""Converts a mask relative to its box to a run-length code of the whole image."""

from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from pycocotools import mask as run_lengths

THRESHOLD = 0.5


class RunLengths(TypedDict):
    """COCO's compressed run-length code of a mask.

    Attributes:
        size: height and width of the image.
        counts: lengths of the runs, column by column, in COCO's ASCII code.
    """

    size: list[int]
    counts: str


def paste_mask(
    probabilities: Float[np.ndarray, "M M"],
    box: Float[np.ndarray, "4"],
    height: int,
    width: int,
) -> RunLengths:
    """Resamples a mask onto the pixels of its image, thresholds it and encodes it.

    A pixel belongs to the object if its centre lies in the box or on its border, and the
    probability at its centre is at least one half. Probabilities are interpolated bilinearly
    between the centres of the mask's entries, with zeros around the mask. Only the part of the
    image that the box covers is computed: outside the box, the zeros keep probabilities below one
    half.

    Args:
        probabilities: the mask, stretched over ``box``, ``[M, M]`` in [0, 1].
        box: x1, y1, x2, y2 in pixels of the image; it may extend beyond the image. A box without
            width or height covers no pixel.
        height: height of the image in pixels.
        width: width of the image in pixels.
    """
    x1, y1, x2, y2 = (float(edge) for edge in box)
    canvas = np.zeros((width, height), np.uint8)  # transposed: the code runs along columns
    columns, rows = _pixels_between(x1, x2, width), _pixels_between(y1, y2, height)
    if columns.size and rows.size:
        padded = np.pad(probabilities.astype(np.float32, copy=False), 1)
        across = _interpolate(padded.T, columns, x1, x2)  # [w, M + 2]
        inside = _interpolate(across.T, rows, y1, y2).T  # [w, h]
        canvas[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1] = inside >= THRESHOLD
    return encode_mask(canvas.T)


def encode_mask(mask: Bool[np.ndarray, "H W"] | UInt8[np.ndarray, "H W"]) -> RunLengths:
    """Encodes a mask of the whole image, which is 1 or True on the object."""
    code = run_lengths.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}


def _pixels_between(low: float, high: float, size: int) -> Int[np.ndarray, " n"]:
    """The pixels of an axis whose centres lie in ``low..high``."""
    if not high > low:
        return np.arange(0)
    first = max(np.ceil(low - 0.5), 0)
    last = min(np.floor(high - 0.5), size - 1)
    return np.arange(first, last + 1, dtype=np.int64)


def _interpolate(
    padded: Float[np.ndarray, "rows n"],
    pixels: Int[np.ndarray, " p"],
    low: float,
    high: float,
) -> Float[np.ndarray, "p n"]:
    """Interpolates the rows of a mask, padded by a row of zeros at both ends, at pixel centres."""
    rows = padded.shape[0] - 2
    position = (pixels + 0.5 - low) * (rows / (high - low)) + 0.5  # in rows of ``padded``
    above = np.clip(np.floor(position).astype(np.int64), 0, rows)
    share = (position - above).astype(np.float32)[:, None]
    return padded[above] * (1 - share) + padded[above + 1] * share
