"""Resizes label maps in the same way as images; see :mod:`experiments.data.record_images`."""

import numpy as np
from jaxtyping import Int, UInt8

from experiments.data.classes import UNLABELLED
from experiments.segmentation.data.shapes import Shape


def fit_label(
    label: UInt8[np.ndarray, "h w"], size: Shape, shape: Shape, flip: bool = False
) -> UInt8[np.ndarray, "height width"]:
    """Resizes a label map by nearest neighbour, and puts it in the top left corner of an array.

    It matches the image from :func:`experiments.data.record_images.fit_image`, pixel by pixel.

    Args:
        label: class of each pixel, 255 for no class.
        size: height and width of the resized label map in pixels.
        shape: height and width of the result in pixels, at least ``size``.
        flip: whether the label map is mirrored.

    Returns:
        The label map, ``[*shape]``, padded with 255.
    """
    rows, columns = (nearest(length, new) for length, new in zip(label.shape, size, strict=True))
    return pad_label(label[rows][:, columns[::-1] if flip else columns], shape)


def nearest(length: int, resized: int) -> Int[np.ndarray, "resized"]:
    """Returns the index of the nearest pixel of an axis for each pixel of the resized axis.

    Pixels have their coordinates at their centres, as in Pillow. A centre on the border of two
    pixels selects the second one; Pillow, which adds up rounded steps, sometimes takes the first.

    Args:
        length: length of the axis in pixels.
        resized: length of the resized axis in pixels.
    """
    return (2 * np.arange(resized) + 1) * length // (2 * resized)


def pad_label(label: UInt8[np.ndarray, "h w"], shape: Shape) -> UInt8[np.ndarray, "height width"]:
    """Puts a label map in the top left corner of an array without classes.

    Args:
        label: class of each pixel, 255 for no class.
        shape: height and width of the result in pixels, at least the size of the label map.

    Returns:
        The label map, ``[*shape]``, padded with 255.
    """
    padded = np.full(shape, UNLABELLED, np.uint8)
    padded[: label.shape[0], : label.shape[1]] = label
    return padded
