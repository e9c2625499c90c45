"""Images with label maps: a class number for each pixel."""

import dataclasses
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from experiments.data.pictures import open_picture
from experiments.data.records import RecordError, Source
from experiments.engine.errors import InputError
from experiments.engine.text import printable

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """A dataset on disk.

    Attributes:
        folder: folder of the dataset.
        train: training records.
        validation: validation records.
        sizes: for each split, int32 ``[n, 2]``, height and width of each record in pixels.
        class_names: names of the classes, by number.
        unlabelled_images: number of images without a labelled pixel, for each split.
    """

    folder: Path
    train: Source
    validation: Source
    sizes: Mapping[str, Int[np.ndarray, "records 2"]]
    class_names: tuple[str, ...]
    unlabelled_images: Mapping[str, int]

    def source(self, split: str) -> Source:
        """The records of a split, ``"train"`` or ``"validation"``."""
        return {"train": self.train, "validation": self.validation}[split]


def decode_label(record: Mapping[str, Any]) -> UInt8[np.ndarray, "height width"]:
    """Decodes a record's label map.

    Args:
        record: record with ``label``, bytes of a PNG of mode L; ``file_name``, str; and ``height``
            and ``width``, int, in pixels.

    Returns:
        Class of each pixel, 255 for no class.

    Raises:
        RecordError: the label map does not decode, or its size or mode is unexpected.
    """
    name = f"label of {record['file_name']}"
    try:
        label = open_picture(io.BytesIO(record["label"]), name, upright=False)
        expected = ("L", (record["width"], record["height"]))
        if (label.mode, label.size) != expected:
            raise InputError(f"{name} must have {expected}, got {(label.mode, label.size)}")
    except InputError as error:
        _log.warning("%s", printable(error))
        raise RecordError(str(error)) from error
    return np.asarray(label)
