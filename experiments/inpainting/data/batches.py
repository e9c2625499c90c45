"""Batches of images with holes, by tfds and grain.

A batch is a dict with ``image``, uint8 ``[B, S, S, 3]``, ``mask``, uint8 ``[B, S, S, 1]``, 1 in the
hole, and the fields of :mod:`experiments.data.records`. Images are sent to the device as bytes and
mapped to [-1, 1] there, which is a quarter of the traffic.
"""

import dataclasses
import functools
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from experiments.data.composed import crops
from experiments.data.errors import DataError
from experiments.data.folder import images_digest, open_images
from experiments.data.pictures import open_picture, to_rgb
from experiments.data.places import places_folder
from experiments.data.prepared import open_builder
from experiments.data.records import PaddedRecords, ReadableRecords, RecordError, Source
from experiments.engine.batch_fields import RECORD
from experiments.engine.errors import InputError
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import share_of_process
from experiments.engine.text import printable
from experiments.inpainting.configs import BUCKET_PERCENT, DataConfig, HoleConfig
from experiments.inpainting.data.masks import hole_in_range

# In training, the largest number of consecutive records that are tried when records cannot be read.
_ATTEMPTS = 4

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InpaintingData:
    """A dataset on disk.

    Attributes:
        train: training records with ``image``, an encoded image or the path of an image file.
        validation: validation records in the same format.
    """

    train: Source
    validation: Source


def buckets(holes: HoleConfig) -> tuple[tuple[int, int], ...]:
    """The ranges of hole sizes in percent of the image, in which holes are drawn and reported."""
    starts = range(holes.lowest, holes.highest, BUCKET_PERCENT)
    return tuple((start, start + BUCKET_PERCENT) for start in starts)


def open_data(config: DataConfig, folders: DataFolders) -> InpaintingData:
    """Opens a dataset, and builds a dataset of photographs if necessary.

    Args:
        config: config of the data.
        folders: folders of the datasets and of the photographs.

    Raises:
        DataError: Places365, the photographs or the folder of images are missing or damaged; or the
            images in the folder have changed.
    """
    if config.images is not None:
        if images_digest(Path(config.images)) != config.images_digest:
            raise DataError(
                f"{config.images} must contain the same images as when the run was started, got "
                "different names or sizes of files"
            )
        return InpaintingData(*open_images(Path(config.images)))
    if config.source == "places365_small":
        folder = places_folder(folders.data_dir)
    else:
        folder = crops.prepare(config.source, folders.data_dir, folders.cache, config.crop_side)
    builder = open_builder(folder)
    decoders = {"image": tfds.decode.SkipDecoding()}
    train, validation = (
        builder.as_data_source(split, decoders=decoders) for split in ("train", "validation")
    )
    return InpaintingData(train, validation)


def training_batches(
    data: InpaintingData, config: DataConfig, batch_size: int, seed: int
) -> grain.MapDataset:
    """This process's share of the training batches, an endless dataset.

    The examples are random crops, half of them mirrored, with random holes. For each hole, first a
    bucket of hole sizes is drawn, and then a hole in that bucket.

    Args:
        data: dataset from :func:`open_data`.
        config: config of the data.
        batch_size: number of examples in a batch over all processes. The examples of a batch do
            not depend on the number of processes.
        seed: seed of the order, of the crops and of the holes.

    Returns:
        Batches with ``image``, ``mask``, ``record``, int64 ``[B]``, and ``unreadable``, int64
        ``[B, n]``; see :class:`experiments.data.records.ReadableRecords`. ``n`` is 4, or the number
        of records if that is smaller.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    records = ReadableRecords(data.train, _decoded, min(_ATTEMPTS, len(data.train)))
    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_CropFlipAndHole(config))
    # Shard after the random map: before it, all processes would draw the same holes.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    data: InpaintingData, config: DataConfig, batch_size: int
) -> grain.MapDataset:
    """This process's share of batches of the central crops of all validation images.

    Args:
        data: dataset from :func:`open_data`.
        config: config of the data.
        batch_size: number of examples in a batch over all processes.

    Returns:
        Batches with ``image``; ``mask`` and ``bucket``, int32 ``[B]``, from
        :func:`evaluation_hole`; and ``weight``, float32 ``[B]``, ``record``, int64 ``[B]``, and
        ``unreadable``, int64 ``[B, 1]``; see :class:`experiments.data.records.PaddedRecords`. An
        example with weight 0 is a black image without a hole, in bucket -1.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    blank = {"image": np.zeros((config.crop_side, config.crop_side, 3), np.uint8)}
    decode = functools.partial(_central_crop, config=config)
    records = PaddedRecords(data.validation, decode, batch_size, blank)
    dataset = grain.MapDataset.source(records)
    dataset = dataset.map(functools.partial(_with_evaluation_hole, config=config))
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def validation_example(data: InpaintingData, config: DataConfig, number: int) -> dict[str, Any]:
    """One example of :func:`evaluation_batches`, for figures.

    Args:
        data: dataset from :func:`open_data`.
        config: config of the data.
        number: number of the record, in 0..len(data.validation) - 1.

    Returns:
        ``image``, uint8 ``[S, S, 3]``, and ``mask``, uint8 ``[S, S, 1]``.

    Raises:
        RecordError: the record cannot be read.
    """
    mask, _ = evaluation_hole(config, number)
    return {**_central_crop(data.validation[number], config), "mask": mask}


def evaluation_hole(
    config: DataConfig, number: int
) -> tuple[UInt8[np.ndarray, "side side 1"], int]:
    """The hole with which a validation image is evaluated, and the index of its bucket.

    Both depend only on the number of the record and on the config, so that all models are evaluated
    with the same holes. Consecutive records cycle through the buckets.

    Args:
        config: config of the data; ``crop_side`` and ``holes`` are used.
        number: number of the record.
    """
    ranges = buckets(config.holes)
    bucket = number % len(ranges)
    rng = np.random.default_rng((config.crop_side, number))
    return _hole(rng, config, ranges[bucket]), bucket


def _hole(
    rng: np.random.Generator, config: DataConfig, percent: tuple[int, int]
) -> UInt8[np.ndarray, "side side 1"]:
    side, (low, high) = config.crop_side, percent
    mask = hole_in_range(rng, side, side, config.holes.shapes, (low / 100, high / 100))
    return mask[..., None].astype(np.uint8)


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    image = record["image"]
    try:
        if isinstance(image, Path):
            return {"image": to_rgb(open_picture(image, f"image {image}"))}
        return {"image": to_rgb(open_picture(io.BytesIO(image), "image"))}
    except InputError as error:
        # The engine reports records by number, from which the file cannot be recognised.
        _log.warning("%s", printable(error))
        raise RecordError(str(error)) from error


def _crop(
    image: Image.Image, side: int, offset: Callable[[int], int]
) -> UInt8[np.ndarray, "side side 3"]:
    """Crops a square of the scaled image; ``offset(n)`` chooses an offset in 0..n for each axis."""
    size = crops.scaled_size(image.size, side, crops.photograph_side(side))
    left, top = (offset(n - side) for n in size)
    # Scale only the part in the crop, which is faster and results in the same pixels.
    x, y = image.width / size[0], image.height / size[1]
    box = (left * x, top * y, (left + side) * x, (top + side) * y)
    box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS, box))


def _central_crop(record: dict[str, Any], config: DataConfig) -> dict[str, Any]:
    return {"image": _crop(_decoded(record)["image"], config.crop_side, lambda n: n // 2)}


def _with_evaluation_hole(example: dict[str, Any], config: DataConfig) -> dict[str, Any]:
    if example["weight"]:
        mask, bucket = evaluation_hole(config, int(example[RECORD]))
    else:
        mask, bucket = np.zeros((config.crop_side, config.crop_side, 1), np.uint8), -1
    return {**example, "mask": mask, "bucket": np.int32(bucket)}


class _CropFlipAndHole(grain.transforms.RandomMap):
    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image = _crop(
            element["image"],
            self._config.crop_side,
            lambda n: int(rng.integers(n, endpoint=True)),
        )
        if rng.random() < 0.5:
            image = image[:, ::-1]
        ranges = buckets(self._config.holes)
        mask = _hole(rng, self._config, ranges[rng.integers(len(ranges))])
        return {**element, "image": image, "mask": mask}
