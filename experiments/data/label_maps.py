"""Reads datasets of images with label maps; see :mod:`experiments.data.label_maps_tfds`."""

import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32, UInt8

from experiments.data import label_maps_tfds
from experiments.data.errors import DataError
from experiments.data.pictures import open_picture
from experiments.data.prepared import checked, open_builder
from experiments.data.records import RecordError, Source
from experiments.engine.errors import InputError
from experiments.engine.text import printable, shown

VERSIONS = (str(label_maps_tfds.VERSION),)

_SPLITS = ("train", "validation")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelMapRecords:
    """Records of a split.

    Each record is a dict with ``image``, encoded bytes; ``label``, bytes of a grey PNG file with
    the number of a class for each pixel, or 255 for a pixel without a class; ``height`` and
    ``width``, int, in pixels; ``file_name``, str; and ``scene``, str, ``""`` if it is not known.

    Attributes:
        source: tfds data source that decodes neither images nor labels.
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.source[index]
        return {
            "image": bytes(record["image"]),
            "label": bytes(record["label"]),
            "height": int(record["height"]),
            "width": int(record["width"]),
            "file_name": record["file_name"].decode(),
            "scene": record["scene"].decode(),
        }


@dataclass(frozen=True)
class LabelMaps:
    """A dataset of images with label maps.

    Attributes:
        folder: folder of the dataset.
        train: training records of the format of :class:`LabelMapRecords`.
        validation: validation records of the same format.
        sizes: height and width of the image of each record, int32 ``[n, 2]``, for each split.
        class_names: names of the classes, indexed by number.
        unlabelled_images: number of images without a labelled pixel, for each split.
    """

    folder: Path
    train: Source
    validation: Source
    sizes: Mapping[str, Int32[np.ndarray, "n 2"]]
    class_names: tuple[str, ...]
    unlabelled_images: Mapping[str, int]

    def source(self, split: str) -> Source:
        """Returns the records of ``"train"`` or ``"validation"``."""
        return {"train": self.train, "validation": self.validation}[split]


def open_label_maps(folder: Path) -> LabelMaps:
    """Opens a prepared dataset.

    Args:
        folder: folder of the dataset, which :func:`experiments.data.label_maps_tfds.prepare`
            returned.

    Returns:
        The dataset, whose sources can be pickled and read in any order.

    Raises:
        DataError: a file is missing or damaged, or the dataset has no label maps.
    """
    builder = open_builder(checked(folder))
    if builder.name != label_maps_tfds.NAME:
        raise DataError(f"{folder} must hold {label_maps_tfds.NAME}, got {builder.name}")
    names, sizes, unlabelled = _metadata(builder, folder)
    sources = {}
    for split in _SPLITS:
        decoders: dict[str, Any] = {name: tfds.decode.SkipDecoding() for name in ("image", "label")}
        sources[split] = LabelMapRecords(builder.as_data_source(split, decoders=decoders))
    return LabelMaps(folder, sources["train"], sources["validation"], sizes, names, unlabelled)


def decode_label(record: Mapping[str, Any]) -> UInt8[np.ndarray, "height width"]:
    """Decodes a record's label.

    Args:
        record: record with ``label``, bytes of a grey PNG file; ``file_name``, str, for the
            message; and ``height`` and ``width``, int, in pixels.

    Returns:
        The number of the class of each pixel, or 255 for a pixel without a class.

    Raises:
        RecordError: the label does not decode, or is not grey or not of the record's size.
    """
    name = f"label of image {record['file_name']}"
    try:
        image = open_picture(io.BytesIO(record["label"]), name, upright=False)
        expected = ("L", record["width"], record["height"])
        found = (image.mode, *image.size)
        if found != expected:
            raise InputError(f"{name} must have mode, width and height {expected}, got {found}")
    except InputError as error:
        # The engine reports records by number, from which the file cannot be recognised.
        _log.warning("%s", printable(error))
        raise RecordError(str(error)) from error
    return np.asarray(image)


def _metadata(
    builder: tfds.core.DatasetBuilder, folder: Path
) -> tuple[tuple[str, ...], dict[str, Int32[np.ndarray, "n 2"]], dict[str, int]]:
    """Returns the class names, the sizes, and the numbers of images without a labelled pixel."""
    metadata = builder.info.metadata
    try:
        names = tuple(metadata["class_names"])
        sizes = {split: np.array(metadata["sizes"][split], np.int32) for split in _SPLITS}
        images = {split: metadata["counts"][split][0] for split in _SPLITS}
        unlabelled = {split: int(metadata["counts"][split][1]) for split in _SPLITS}
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise DataError(f"the metadata of {folder} are damaged: {error!r}") from error
    found = {split: builder.info.splits[split].num_examples for split in _SPLITS}
    if found != images:
        raise DataError(f"{folder} must have the images {shown(images)} by split, got {found}")
    shapes = {split: sizes[split].shape for split in _SPLITS}
    if shapes != {split: (count, 2) for split, count in found.items()}:
        raise DataError(f"{folder} must have a size for each of the images {found}, got {shapes}")
    if not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{folder} must have names of classes, got {shown(names)}")
    return names, sizes, unlabelled
