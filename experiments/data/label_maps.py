"""Images with a class for each pixel (a stand-in with the interface of the dataset)."""

import dataclasses
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.records import RecordError, Source

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelMaps:
    """A dataset on disk.

    Attributes:
        folder: folder of the dataset.
        train: training records.
        validation: validation records.
        sizes: height and width of each record, int32 ``[n, 2]``, by the name of the split.
        class_names: names of the classes.
    """

    folder: Path
    train: Source
    validation: Source
    sizes: Mapping[str, np.ndarray]
    class_names: tuple[str, ...]

    def source(self, split: Literal["train", "validation"]) -> Source:
        """The records of a split."""
        return self.train if split == "train" else self.validation


def decode_label(record: Mapping[str, Any]) -> UInt8[np.ndarray, "height width"]:
    """Decodes the label of a record.

    Raises:
        RecordError: the label does not decode, or its size differs from the annotated size.
    """
    try:
        with Image.open(io.BytesIO(record["label"])) as image:
            label = np.array(image)
        if label.shape != (record["height"], record["width"]):
            raise ValueError(f"expected another size, got {label.shape}")
    except (OSError, ValueError) as error:
        _log.warning("label of %s: %s", record["file_name"], error)
        raise RecordError(f"label of {record['file_name']}: {error}") from error
    return label
