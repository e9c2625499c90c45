"""Converts the objects of a record to the padded arrays on which a detector is trained.

Boxes are x1, y1, x2, y2 in continuous coordinates: the top left pixel covers [0, 1] x [0, 1].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from experiments.data.errors import DataError
from experiments.detection.data.object_masks import box_mask, decode_mask

Objects = dict[str, np.ndarray]

PADDING_LABEL = -1


def clipped_boxes(record: Mapping[str, Any]) -> Float[np.ndarray, "objects 4"]:
    """All boxes of a record, clipped to its image, in pixels, float64."""
    bbox = np.asarray(record["objects"]["bbox"], np.float64).reshape(-1, 4)
    ends = np.array([record["width"], record["height"]] * 2, np.float64)
    corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
    return np.clip(corners, np.zeros_like(ends), ends)


def is_trainable(record: Mapping[str, Any]) -> Bool[np.ndarray, "objects"]:
    """Which objects of a record, including crowds, are used in training.

    As in mmdet 2, an object is used if its box is at least a pixel wide and high and its
    segmentation has a positive area. Unlike in mmdet 2, boxes are first clipped to the image.

    Args:
        record: record in the format of :mod:`experiments.data.coco`.
    """
    boxes = clipped_boxes(record)
    area = np.asarray(record["objects"]["area"], np.float64)
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1) & (area > 0)


def training_objects(record: Mapping[str, Any], mask_side: int | None) -> Objects:
    """The objects of a record on which a detector is trained, including crowds.

    Args:
        record: record in the format of :mod:`experiments.data.coco`.
        mask_side: number of rows and columns of an object's mask; None for no masks.

    Returns:
        ``boxes``, float64 ``[n, 4]``, in pixels, within the record's image; ``labels``, int32
        ``[n]``; ``crowd``, bool ``[n]``; and, if ``mask_side`` is given, ``masks``, uint8
        ``[n, side, side]``, 0 or 1, relative to the boxes. The mask of a crowd is 0.

    Raises:
        DataError: ``mask_side`` is given, and an object that is not a crowd has no segmentation.
    """
    objects = record["objects"]
    boxes = clipped_boxes(record)
    kept = np.flatnonzero(is_trainable(record))
    found = {
        "boxes": boxes[kept],
        "labels": np.asarray(objects["label"], np.int32)[kept],
        "crowd": np.asarray(objects["is_crowd"], bool)[kept],
    }
    if mask_side is not None:
        found["masks"] = np.zeros((len(kept), mask_side, mask_side), np.uint8)
        for row in np.flatnonzero(~found["crowd"]):
            mask = _mask(record, int(kept[row]))
            found["masks"][row] = box_mask(mask, found["boxes"][row], mask_side)
    return found


def scaled(objects: Objects, size: tuple[int, int], resized: tuple[int, int]) -> Objects:
    """Scales the objects of an image of ``size`` (height, width) to the size ``resized``."""
    (height, width), (new_height, new_width) = size, resized
    factors = np.array([new_width / width, new_height / height] * 2)
    return {**objects, "boxes": objects["boxes"] * factors[None]}


def flipped(objects: Objects, width: int) -> Objects:
    """Mirrors the objects of an image of the given width."""
    x1, y1, x2, y2 = objects["boxes"].T
    mirrored = {**objects, "boxes": np.stack([width - x2, y1, width - x1, y2], axis=1)}
    if "masks" in objects:
        mirrored["masks"] = objects["masks"][:, :, ::-1]
    return mirrored


def padded(objects: Objects, max_objects: int) -> Objects:
    """Pads the objects to ``max_objects`` rows; padding has the label -1.

    Returns:
        The padded arrays, 0 in the padding of all arrays but ``labels``. ``boxes`` are float32; the
        other dtypes do not change.

    Raises:
        ValueError: there are more than ``max_objects`` objects.
    """
    count = len(objects["labels"])
    if count > max_objects:
        raise ValueError(f"max_objects must be at least {count}, got {max_objects}")
    rows = {**objects, "boxes": objects["boxes"].astype(np.float32)}
    filled = {}
    for name, array in rows.items():
        fill = PADDING_LABEL if name == "labels" else 0
        filled[name] = np.full((max_objects, *array.shape[1:]), fill, array.dtype)
        filled[name][:count] = array
    return filled


def _mask(record: Mapping[str, Any], number: int) -> np.ndarray:
    counts = record["objects"]["segmentation"][number]
    if not counts:
        raise DataError(
            f"object {record['objects']['id'][number]} of image {record['image_id']} must have a "
            "segmentation to train masks, got none"
        )
    return decode_mask(counts, record["height"], record["width"])
