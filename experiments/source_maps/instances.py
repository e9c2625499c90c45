"""Instance maps: the number of the object at each pixel of an image, 0 for the background."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Size = tuple[int, int]

OUTSIDE = -1  # instead of the number of an object, for pixels outside the image


def instance_map(
    masks: Sequence[Bool[np.ndarray, "height width"]], size: Size
) -> Int[np.ndarray, "height width"]:
    """Combines masks. Where objects overlap, the pixel belongs to the smallest object.

    Args:
        masks: mask of each object in an image of ``size``.
        size: height and width of the image, in pixels.

    Returns:
        Numbers of the objects, int32 ``[H, W]``; object ``n`` of ``masks`` has number ``n + 1``.
    """
    instances = np.zeros(size, np.int32)
    areas = [int(mask.sum()) for mask in masks]
    for number in sorted(range(len(masks)), key=areas.__getitem__, reverse=True):
        instances[masks[number].astype(bool)] = number + 1
    return instances


def box_masks(
    boxes: Sequence[Sequence[float]], size: Size
) -> list[Bool[np.ndarray, "height width"]]:
    """Returns a mask of each box: the pixels whose centres lie in it.

    Args:
        boxes: left, top, width and height of each box, in pixels.
        size: height and width of the image, in pixels.
    """
    rows, columns = (np.arange(side) + 0.5 for side in size)
    masks = []
    for left, top, width, height in boxes:
        inside_rows = (rows >= top) & (rows < top + height)
        inside_columns = (columns >= left) & (columns < left + width)
        masks.append(inside_rows[:, None] & inside_columns[None])
    return masks


def resized(
    instances: Int[np.ndarray, "height width"], size: Size
) -> Int[np.ndarray, "new_height new_width"]:
    """Resizes an instance map: each pixel takes the number at its centre.

    Args:
        instances: instance map.
        size: height and width of the result, in pixels.
    """
    rows, columns = (
        ((2 * np.arange(new) + 1) * old) // (2 * new)
        for new, old in zip(size, instances.shape, strict=True)
    )
    return instances[rows[:, None], columns[None]]


def at_targets(
    instances: Int[np.ndarray, "height width"], stride: int, map_size: Size
) -> Int[np.ndarray, "rows columns"]:
    """Returns the number of the object in which the centre of each pixel of a map lies.

    Pixel ``i`` of a map with an even stride ``S`` covers the pixels ``S * i`` to ``S * (i + 1)``,
    exclusive, of the image. Its centre is the corner at which the pixel ``S * i + S / 2`` begins,
    and that pixel decides.

    Args:
        instances: instance map, without the padding of the network's input.
        stride: stride of the map, in pixels of the image.
        map_size: height and width of the map; it may be larger than the image requires.

    Returns:
        Numbers of objects; 0 for the background, and -1 for pixels whose centre is outside the
        image.
    """
    height, width = instances.shape
    rows, columns = (stride * np.arange(side) + stride // 2 for side in map_size)
    inside = (rows < height)[:, None] & (columns < width)[None]
    found = instances[np.minimum(rows, height - 1)[:, None], np.minimum(columns, width - 1)[None]]
    return np.where(inside, found, OUTSIDE)


def coverage(
    mask: Bool[np.ndarray, "height width"], stride: int, map_size: Size
) -> Float[np.ndarray, "rows columns"]:
    """Returns the fraction of the area of each pixel of a map that a mask covers.

    Args:
        mask: mask of an image, without the padding of the network's input.
        stride: stride of the map, in pixels of the image.
        map_size: height and width of the map; it may be larger than the image requires.

    Returns:
        Fractions, float32 ``[rows, columns]``. Area outside the image is not covered.
    """
    rows, columns = map_size
    padded = np.zeros((rows * stride, columns * stride), np.float32)
    height, width = (min(a, b) for a, b in zip(mask.shape, padded.shape, strict=True))
    padded[:height, :width] = mask[:height, :width]
    return padded.reshape(rows, stride, columns, stride).mean(axis=(1, 3), dtype=np.float32)
