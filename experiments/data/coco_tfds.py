"""Prepares a tfds dataset from a folder in COCO's layout, with masks, which tfds' own `coco` lacks.

Images are stored as they are, with their annotations. The metadata hold ``categories``, ordered by
id, as ``[[id, name], ...]``; and ``counts``, for each split the numbers of images and annotations.
"""

import hashlib
import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from experiments.data.coco_annotations import AnnotatedImage, Annotations, read_annotations
from experiments.data.dataset_writing import write_dataset
from experiments.data.encoded_pictures import read_encoded
from experiments.data.errors import DataError
from experiments.data.prepared import prepare_once
from experiments.engine.text import shown

NAME = "coco_instances"
VERSION = tfds.core.Version("1.0.0")

# By default tfds stores floating-point numbers in 32 bits.
_EXACT = {"dtype": np.float64, "encoding": tfds.features.Encoding.BYTES}
_FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(),
        "image_id": np.int64,
        "file_name": tfds.features.Text(),
        "height": np.int64,
        "width": np.int64,
        "objects": tfds.features.Sequence(
            {
                "id": np.int64,
                "bbox": tfds.features.Tensor(shape=(4,), **_EXACT),
                "area": tfds.features.Tensor(shape=(), **_EXACT),
                "label": np.int64,
                "is_crowd": np.bool_,
                "segmentation": tfds.features.Text(),
            }
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class CocoConfig:
    """The names of the parts of a folder in COCO's layout.

    Attributes:
        name: name of the dataset's config.
        train: name of the training split; its annotations are in
            `annotations/instances_<train>.json`, its images in `<train>/` and subfolders.
        validation: name of the validation split; its annotations are in
            `annotations/instances_<validation>.json`, its images in `<validation>/` and subfolders.
        test: name of the list of images without annotations, `annotations/image_info_<test>.json`;
            used if the file exists.
        test_images: folder of the images that ``test`` lists.
        counts: numbers of images and annotations that each split must have; None for any numbers.
    """

    name: str
    train: str
    validation: str
    test: str | None = None
    test_images: str | None = None
    counts: Mapping[str, tuple[int, int]] | None = None


COCO_2017 = CocoConfig(
    name="2017",
    train="train2017",
    validation="val2017",
    test="test-dev2017",
    test_images="test2017",
    counts={"train": (118_287, 860_001), "validation": (5_000, 36_781), "test": (20_288, 0)},
)


def coco_path(data_dir: Path, name: str) -> Path:
    """Returns the folder that the complete dataset has.

    Args:
        data_dir: folder of the tfds datasets.
        name: name of the dataset's config.
    """
    return data_dir / NAME / name / str(VERSION)


def prepare(folder: Path, data_dir: Path, config: CocoConfig) -> Path:
    """Prepares the dataset, unless it exists, and returns the folder from which to read it.

    A preparation that was killed leaves nothing that looks complete; the next one deletes the rest
    and starts again. If two processes prepare the dataset, one waits for the other.

    Args:
        folder: folder in COCO's layout.
        data_dir: folder of the tfds datasets.
        config: names of the parts of ``folder``.

    Raises:
        DataError: a file is missing, images and annotations do not match, or an annotation is
            malformed; the message names the file and the entry.
        FolderError: ``data_dir`` cannot be written to.
    """
    prepared = coco_path(data_dir, config.name)
    return prepare_once(prepared, lambda: _write(prepared, folder, config))


def _write(prepared: Path, folder: Path, config: CocoConfig) -> None:
    splits = _annotated_splits(folder, config)
    categories = splits["train"][0].categories
    # Everything is validated before the first record is written, because writing takes minutes.
    for annotations, images in splits.values():
        if annotations.categories != categories:
            different = sorted({*annotations.categories} ^ {*categories})
            raise DataError(
                f"{annotations.path} must have the categories of {splits['train'][0].path}, "
                f"but they differ in {shown([tuple(category) for category in different])}"
            )
        _check_present(annotations, images)
    counts = {
        split: (len(annotations.images), annotations.object_count)
        for split, (annotations, _) in splits.items()
    }
    _check_counts(folder, counts, config)
    metadata = {
        "categories": [list(category) for category in categories],
        "counts": {split: list(count) for split, count in counts.items()},
    }
    write_dataset(
        prepared,
        __name__,
        {
            split: [
                partial(_example, image, annotations, images)
                for image in _shuffled(split, annotations.images)
            ]
            for split, (annotations, images) in splits.items()
        },
        features=_FEATURES,
        homepage="https://cocodataset.org",
        metadata=tfds.core.MetadataDict(metadata),
    )


def _shuffled(split: str, images: Sequence[AnnotatedImage]) -> list[AnnotatedImage]:
    """Returns the images in the order in which a builder of tfds stores them.

    Datasets of this version that a builder prepared have this order, too. It is random,
    because annotation files may list similar images one after another.
    """

    def key(image: AnnotatedImage) -> bytes:
        return hashlib.md5(f"{split}{image.id}".encode(), usedforsecurity=False).digest()

    return sorted(images, key=key)


def _example(image: AnnotatedImage, annotations: Annotations, images: Path) -> dict[str, Any]:
    return {
        "image": io.BytesIO(_encoded(images / image.file_name, image, annotations)),
        "image_id": image.id,
        "file_name": image.file_name,
        "height": image.height,
        "width": image.width,
        "objects": [
            {**found._asdict(), "bbox": np.array(found.bbox, np.float64)}
            for found in annotations.objects.get(image.id, ())
        ],
    }


def _annotated_splits(folder: Path, config: CocoConfig) -> dict[str, tuple[Annotations, Path]]:
    def instances(part: str) -> tuple[Annotations, Path]:
        path = folder / "annotations" / f"instances_{part}.json"
        return read_annotations(path), folder / part

    splits = {"train": instances(config.train), "validation": instances(config.validation)}
    if config.test is not None and config.test_images is not None:
        listed = folder / "annotations" / f"image_info_{config.test}.json"
        if listed.is_file():
            annotations = read_annotations(listed, with_objects=False)
            splits["test"] = annotations, folder / config.test_images
    return splits


def _check_present(annotations: Annotations, images: Path) -> None:
    if not images.is_dir():
        raise DataError(f"the images of {annotations.path} must be in {images}, which is no folder")
    names = [image.file_name for image in annotations.images]
    if not names:
        raise DataError(f"{annotations.path} must list one or more images, got none")
    there: set[str] = set()
    # Listing each folder once is faster on a network file system than a request for every file.
    for folder in {PurePosixPath(name).parent for name in names}:
        there |= {str(folder / name) for name in _files(images / folder)}
    if missing := [name for name in names if name not in there]:
        raise DataError(
            f"{images} lacks {len(missing)} of the {len(names)} images of {annotations.path}, the "
            f"first is {shown(missing[0])}{_hint(images, missing[0])}"
        )


def _files(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error


def _hint(images: Path, name: str) -> str:
    """Returns the end of the message for a missing image: a file that may be meant, if any."""
    there: dict[str, str] = {}
    for folder, _, files in images.walk():
        for file in files:
            path = (folder / file).relative_to(images).as_posix()
            there[_folded(path)] = path
    parts = _folded(name.replace("\\", "/")).split("/")
    # A name that starts with the name of the folder, or of a folder above it, ends with the right
    # path.
    for first in range(len(parts)):
        if found := there.get("/".join(parts[first:])):
            return (
                f". Is {found!a} meant? A file_name must be relative to {images}, have '/' between "
                f"folders, and the same letters, also in case and Unicode form, got {name!a:.200}"
            )
    return ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _check_counts(folder: Path, counts: Mapping[str, tuple[int, int]], config: CocoConfig) -> None:
    for split, (images, objects) in counts.items():
        if config.counts is not None and (images, objects) != config.counts[split]:
            raise DataError(
                f"{folder} must be the whole of COCO {config.name}: its split {split!r} has "
                f"{config.counts[split][0]} images and {config.counts[split][1]} annotations, got "
                f"{images} and {objects}"
            )


def _encoded(path: Path, image: AnnotatedImage, annotations: Annotations) -> bytes:
    encoded = read_encoded(path)
    annotated = (image.height, image.width)
    if encoded.shape != annotated:
        height, width = encoded.shape
        raise DataError(
            f"{path} must be {image.height} x {image.width} (height x width), as "
            f"{annotations.path} says of image {image.id}, got {height} x {width}"
            f"{encoded.orientation_hint(annotated)}"
        )
    return encoded.content
