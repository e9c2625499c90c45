"""A tfds dataset of images with label maps, which give each pixel a class."""

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from experiments.data.classes import UNLABELLED
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

_FILES_AT_ONCE = 64
_KEY_BITS = 128  # of the keys by which tfds orders records


class LabelMapsBuilder(tfds.core.GeneratorBasedBuilder):
    """Encoded images as they are, and labels as grey PNG with the numbers of classes.

    Records are in the order of the files. The metadata hold ``class_names``; ``sizes``, for each
    split the height and width of each image; and ``counts``, for each split the number of images
    and the number of images without a labelled pixel.
    """

    name = NAME
    VERSION = VERSION

    def __init__(self, *, list_files: Callable[[], LabelFiles], **options: Any) -> None:
        """Args: list_files: function that lists the files; called to prepare the dataset."""
        self._list_files = list_files
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(),
                    "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "height": np.int64,
                    "width": np.int64,
                    "file_name": tfds.features.Text(),
                    "scene": tfds.features.Text(),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        files = self._list_files()
        sizes, counts = {}, {}
        # Everything is checked before the first record is written. Labels must be decoded for it,
        # because the values of the pixels are checked; images are not decoded.
        for split, pairs in files.splits.items():
            if not pairs:
                raise DataError(f"the split {split!r} must have one or more images, got none")

            def check(pair: LabelledImage) -> tuple[tuple[int, int], bool]:
                image, label = _read(pair, files.format)
                return image.shape, bool((label == UNLABELLED).all())

            checked = list(_in_threads(check, pairs))
            sizes[split] = [list(shape) for shape, _ in checked]
            counts[split] = [len(checked), sum(unlabelled for _, unlabelled in checked)]
        self.info.metadata["class_names"] = list(files.class_names)
        self.info.metadata["sizes"] = sizes
        self.info.metadata["counts"] = counts
        return {
            split: self._generate_examples(pairs, files.format)
            for split, pairs in files.splits.items()
        }

    def _generate_examples(
        self, pairs: Sequence[LabelledImage], form: LabelFormat
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        # tfds distributes keys over buckets by their highest bits, and sorts each bucket in memory.
        step = 2**_KEY_BITS // len(pairs)

        def example(pair: LabelledImage) -> dict[str, Any]:
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

        for index, fields in enumerate(_in_threads(example, pairs)):
            yield index * step, fields


def label_maps_path(data_dir: Path, name: str) -> Path:
    """Returns the folder that the complete dataset has.

    Args:
        data_dir: folder of the tfds datasets.
        name: name of the dataset's config.
    """
    return data_dir / NAME / name / str(VERSION)


def prepare(name: str, data_dir: Path, list_files: Callable[[], LabelFiles]) -> Path:
    """Prepares the dataset, unless it exists, and returns the folder from which to read it.

    A preparation that was killed leaves nothing that looks complete; the next one deletes the rest
    and starts again. If two processes prepare the dataset, one waits for the other.

    Args:
        name: name of the dataset's config.
        data_dir: folder of the tfds datasets.
        list_files: function that lists the files of the dataset; called if it does not exist.

    Raises:
        DataError: a file is missing or invalid, or an image and its label have different sizes; the
            message names the file.
        FolderError: ``data_dir`` cannot be written to.
    """
    config = tfds.core.BuilderConfig(name=name)
    return prepare_once(
        label_maps_path(data_dir, name),
        lambda: LabelMapsBuilder(list_files=list_files, config=config, data_dir=data_dir),
    )


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


def _in_threads[A, B](function: Callable[[A], B], arguments: Iterable[A]) -> Iterator[B]:
    """Yields the results in order; only some are in memory at a time."""
    # Threads suffice: Pillow and NumPy release the lock of the interpreter while they compute.
    with ThreadPoolExecutor() as pool:
        for some in itertools.batched(arguments, _FILES_AT_ONCE):
            yield from pool.map(function, some)
