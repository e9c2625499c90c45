"""Batches of images with holes, by tfds and grain.

A batch is a dict of ``image``, uint8 ``[B, S, S, 3]``, ``mask``, uint8 ``[B, S, S, 1]``, 1 in the
hole, and what :mod:`experiments.data.records` adds. Bytes go to the device, which maps them to
[-1, 1]: a quarter of the traffic.
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

# Of records that are tried in a row, in training; a small folder has fewer.
_ATTEMPTS = 4

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class InpaintingData:
    """A data set on disk.

    Attributes:
        train: records with ``image``, an encoded image or the path of one.
        validation: records of the same form.
    """

    train: Source
    validation: Source


def buckets(holes: HoleConfig) -> tuple[tuple[int, int], ...]:
    """The ranges of hole sizes, in percent of the image, by which holes are drawn and reported."""
    starts = range(holes.lowest, holes.highest, BUCKET_PERCENT)
    return tuple((start, start + BUCKET_PERCENT) for start in starts)


def open_data(config: DataConfig, folders: DataFolders) -> InpaintingData:
    """Opens a data set, and builds that of photographs if need be.

    Args:
        config: of the run.
        folders: where data sets and photographs lie.

    Raises:
        DataError: Places365, the photographs or the folder of images are not there, or not as they
            must be; or the folder holds other images than it did.
    """
    if config.images is not None:
        if images_digest(Path(config.images)) != config.images_digest:
            raise DataError(
                f"{config.images} must hold the images that it held when the run was started, got "
                "others, or other sizes of files"
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
    """Endless batches of random crops with random holes; this process's share of them.

    A crop is mirrored or not; a bucket of hole sizes is drawn, and then a hole in it.

    Args:
        data: what :func:`open_data` gives.
        config: of the run.
        batch_size: over all processes; they share a batch, whose examples do not depend on their
            number.
        seed: of order, crops and holes.

    Returns:
        Batches with ``image``, ``mask``, ``record``, int64 ``[B]``, and ``unreadable``, int64
        ``[B, n]``; see :class:`experiments.data.records.ReadableRecords`. ``n`` is 4, or the number
        of records where there are fewer.

    Raises:
        ConfigError: ``batch_size`` is no multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    records = ReadableRecords(data.train, _decoded, min(_ATTEMPTS, len(data.train)))
    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_CropFlipAndHole(config))
    # Sharded only now: before, every process would draw the same holes.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    data: InpaintingData, config: DataConfig, batch_size: int
) -> grain.MapDataset:
    """Batches of the central crops of all validation images; this process's share of them.

    Args:
        data: what :func:`open_data` gives.
        config: of the run.
        batch_size: over all processes.

    Returns:
        Batches with ``image``, ``mask`` and ``bucket``, int32 ``[B]``, of :func:`evaluation_hole`;
        and ``weight``, float32 ``[B]``, ``record``, int64 ``[B]``, and ``unreadable``, int64
        ``[B, 1]``; see :class:`experiments.data.records.PaddedRecords`. What has weight 0 is black,
        without a hole, and of bucket -1.

    Raises:
        ConfigError: ``batch_size`` is no multiple of the number of processes.
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
    """One example of :func:`evaluation_batches`, to show.

    Args:
        data: what :func:`open_data` gives.
        config: of the run.
        number: of the record, in 0..len(data.validation) - 1.

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

    They depend on the record's number and on the config alone, so that every model gets the same.
    The buckets take turns.

    Args:
        config: its side and holes count.
        number: of the record.
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
        # The engine tells of records by their number, which says little of a file.
        _log.warning("%s", printable(error))
        raise RecordError(str(error)) from error


def _crop(
    image: Image.Image, side: int, offset: Callable[[int], int]
) -> UInt8[np.ndarray, "side side 3"]:
    """Cuts a square of the scaled image; ``offset`` chooses its place in 0..n on either axis."""
    size = crops.scaled_size(image.size, side, crops.photograph_side(side))
    left, top = (offset(n - side) for n in size)
    # Only what the crop shows is scaled: the same pixels for less.
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
