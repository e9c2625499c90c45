"""From the objects of a record to padded arrays: what a detector is trained on.

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
    """All boxes of a record in pixels of its image, float64, clipped to it."""
    bbox = np.asarray(record["objects"]["bbox"], np.float64).reshape(-1, 4)
    ends = np.array([record["width"], record["height"]] * 2, np.float64)
    corners = np.concatenate([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]], axis=1)
    return np.clip(corners, np.zeros_like(ends), ends)


def is_trainable(record: Mapping[str, Any]) -> Bool[np.ndarray, "objects"]:
    """Which objects of a record are used in training, crowds among them.

    As in mmdet 2, those whose box is at least a pixel wide and high, and whose segmentation has
    some area. Here boxes are clipped to the image first.

    Args:
        record: one of :mod:`experiments.data.coco`.
    """
    boxes = clipped_boxes(record)
    area = np.asarray(record["objects"]["area"], np.float64)
    return ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1) & (area > 0)


def training_objects(record: Mapping[str, Any], mask_side: int | None) -> Objects:
    """The objects of a record that a detector is trained on, crowds among them.

    Args:
        record: one of :mod:`experiments.data.coco`.
        mask_side: rows and columns of an object's mask; None for no masks.

    Returns:
        ``boxes``, float64 ``[n, 4]``, in pixels of the record's image, within it; ``labels``, int32
        ``[n]``; ``crowd``, bool ``[n]``; and with a ``mask_side`` ``masks``, uint8
        ``[n, side, side]``, relative to the boxes, 0 or 1, for a crowd 0.

    Raises:
        DataError: an object that is no crowd has no segmentation, and ``mask_side`` is given.
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
    """The objects of an image of ``size`` (height, width) once it is ``resized``."""
    (height, width), (new_height, new_width) = size, resized
    factors = np.array([new_width / width, new_height / height] * 2)
    return {**objects, "boxes": objects["boxes"] * factors[None]}


def flipped(objects: Objects, width: int) -> Objects:
    """The objects of an image of that width once it is mirrored."""
    x1, y1, x2, y2 = objects["boxes"].T
    mirrored = {**objects, "boxes": np.stack([width - x2, y1, width - x1, y2], axis=1)}
    if "masks" in objects:
        mirrored["masks"] = objects["masks"][:, :, ::-1]
    return mirrored


def padded(objects: Objects, max_objects: int) -> Objects:
    """Makes the number of objects ``max_objects``, with the label -1 for padding.

    Returns:
        ``boxes``, float32 ``[N, 4]``, and the others as they are, 0 where they are padded.

    Raises:
        ValueError: there are more.
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
            "segmentation to learn masks from, got none"
        )
    return decode_mask(counts, record["height"], record["width"])
