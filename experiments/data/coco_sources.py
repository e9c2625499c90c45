"""Records of COCO in one format, whether this project or tfds prepared them."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.data.pictures import picture_size
from experiments.data.records import RecordError, Source
from experiments.engine.errors import InputError


@dataclass(frozen=True)
class InstanceRecords:
    """Records of the dataset that :mod:`experiments.data.coco_tfds` prepares.

    Each record is a dict with ``image``, encoded bytes; ``image_id``, int; ``height`` and
    ``width``, int, in pixels; ``file_name``, str; and ``objects``, a dict with ``id`` int64
    ``[n]``, ``bbox`` float64 ``[n, 4]`` (left, top, width and height in pixels), ``area`` float64
    ``[n]`` in pixels, ``label`` int64 ``[n]``, ``is_crowd`` bool ``[n]``, and ``segmentation``, a
    list of n str, compressed run lengths of the whole image, or ``""`` for none.

    Attributes:
        source: tfds data source that does not decode images.
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.source[index]
        objects = record["objects"]
        return {
            "image": bytes(record["image"]),
            "image_id": int(record["image_id"]),
            "height": int(record["height"]),
            "width": int(record["width"]),
            "file_name": record["file_name"].decode(),
            "objects": {
                **_labelled(objects),
                "bbox": np.asarray(objects["bbox"], np.float64).reshape(-1, 4),
                "segmentation": [counts.decode() for counts in objects["segmentation"]],
            },
        }


@dataclass(frozen=True)
class BoxRecords:
    """Records of tfds' own `coco`, which has no masks, in the format of :class:`InstanceRecords`.

    tfds stores boxes as float32 fractions of the image's size, which is exact to some ten
    thousandths of a pixel, and areas as integers.

    Attributes:
        source: tfds data source that does not decode images.
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.source[index]
        objects = record["objects"]
        name = f"record {index} of {self.source!r}"
        try:
            width, height = picture_size(io.BytesIO(record["image"]), name, upright=False)
        except InputError as error:
            raise RecordError(str(error)) from error
        corners = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
        top, left, bottom, right = (corners * (height, width, height, width)).T
        return {
            "image": bytes(record["image"]),
            "image_id": int(record["image/id"]),
            "height": height,
            "width": width,
            "file_name": record["image/filename"].decode(),
            "objects": {
                **_labelled(objects),
                "bbox": np.stack([left, top, right - left, bottom - top], axis=-1),
                "segmentation": [""] * len(corners),
            },
        }


def _labelled(objects: dict[str, Any]) -> dict[str, np.ndarray]:
    types = {"id": np.int64, "area": np.float64, "label": np.int64, "is_crowd": np.bool_}
    return {name: np.asarray(objects[name], dtype) for name, dtype in types.items()}
