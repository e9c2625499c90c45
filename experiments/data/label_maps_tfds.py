"""Prepares a tfds dataset of images with label maps, which give each pixel a class.

Images are stored as they are. Labels are stored as grey PNG files with the numbers of the classes,
and 255 for pixels without a class. Records are in the order of the files. The metadata hold
``class_names``; ``sizes``, for each split the height and width of each image; and ``counts``, for
each split the number of images and the number of images without a labelled pixel.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from experiments.data.classes import UNLABELLED
from experiments.data.dataset_writing import in_threads, write_dataset
from experiments.data.encoded_pictures import EncodedPicture, read_encoded
from experiments.data.errors import DataError
from experiments.data.label_files import (
    LabelFiles,
    LabelFormat,
    LabelledImage,
    encode_label,
    read_label,
)
from experiments.data.prepared import prepare_once
from experiments.engine.text import encodable

NAME = "label_maps"
VERSION = tfds.core.Version("1.0.0")

_FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(),
        "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
        "height": np.int64,
        "width": np.int64,
        "file_name": tfds.features.Text(),
        "scene": tfds.features.Text(),
    }
)


def label_maps_path(data_dir: Path, name: str) -> Path:
    """Returns the folder of the complete dataset.

    Args:
        data_dir: folder of the tfds datasets.
        name: name of the dataset's config.
    """
    return data_dir / NAME / name / str(VERSION)


def prepare(name: str, data_dir: Path, list_files: Callable[[], LabelFiles]) -> Path:
    """Prepares the dataset, unless it exists, and returns the folder from which to read it.

    A preparation that was killed leaves nothing that looks complete; the next preparation deletes
    its files and starts again. If two processes prepare the dataset, one waits for the other.

    Args:
        name: name of the dataset's config.
        data_dir: folder of the tfds datasets.
        list_files: function that lists the files of the dataset; called unless the dataset exists.

    Raises:
        DataError: a file is missing or invalid, or an image and its label have different sizes; the
            message names the file.
        FolderError: ``data_dir`` cannot be written to.
    """
    prepared = label_maps_path(data_dir, name)
    return prepare_once(prepared, lambda: _write(prepared, list_files()))


def _write(prepared: Path, files: LabelFiles) -> None:
    sizes, counts = {}, {}
    # Everything is checked before the first record is written. Labels are decoded, because
    # the values of their pixels are checked; images are not.
    for split, pairs in files.splits.items():
        checked = _checked(pairs, files.format)
        sizes[split] = [list(shape) for shape, _ in checked]
        counts[split] = [len(checked), sum(unlabelled for _, unlabelled in checked)]
    metadata = {"class_names": list(files.class_names), "sizes": sizes, "counts": counts}
    write_dataset(
        prepared,
        __name__,
        {
            split: [partial(_example, pair, files.format) for pair in pairs]
            for split, pairs in files.splits.items()
        },
        features=_FEATURES,
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(metadata),
    )


def _checked(
    pairs: Sequence[LabelledImage], form: LabelFormat
) -> list[tuple[tuple[int, int], bool]]:
    """Returns, for each image, height and width, and whether no pixel is labelled."""

    def check(pair: LabelledImage) -> tuple[tuple[int, int], bool]:
        image, label = _read(pair, form)
        return image.shape, bool((label == UNLABELLED).all())

    return list(in_threads(check, pairs))


def _example(pair: LabelledImage, form: LabelFormat) -> dict[str, Any]:
    image, label = _read(pair, form)
    height, width = image.shape
    return {
        "image": io.BytesIO(image.content),
        "label": io.BytesIO(encode_label(label)),
        "height": height,
        "width": width,
        "file_name": encodable(pair.name),
        "scene": encodable(pair.scene),
    }


def _read(
    pair: LabelledImage, form: LabelFormat
) -> tuple[EncodedPicture, UInt8[np.ndarray, "height width"]]:
    image = read_encoded(pair.image)
    label = read_label(pair.label, form)
    if image.shape != label.shape:
        (height, width), (label_height, label_width) = image.shape, label.shape
        raise DataError(
            f"label {pair.label} must be {height} x {width} (height x width), as {pair.image}, got "
            f"{label_height} x {label_width}{image.orientation_hint((label_height, label_width))}"
        )
    return image, label
