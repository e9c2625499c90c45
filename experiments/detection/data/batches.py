"""Batches of images with objects to detect, by grain; each is of one bucket, landscape or portrait.

An image of ``size`` lies in the top left of the bucket's shape. Bytes go to the device, which
normalises them: a quarter of the traffic.
"""

import functools
from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np

from experiments.data.errors import DataError
from experiments.data.records import PaddedRecords, ReadableRecords, Source
from experiments.detection.data.config import DataConfig
from experiments.detection.data.images import bucket_shape, decode_image, fit_image, resized_size
from experiments.detection.data.objects import flipped, padded, scaled, training_objects
from experiments.detection.data.order import BucketedOrder
from experiments.detection.data.record_index import RecordIndex
from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.parallel import share_of_process

# Of records of a bucket that are tried in a row, in training; a small bucket has fewer.
_ATTEMPTS = 4


def training_batches(
    source: Source, index: RecordIndex, config: DataConfig, batch_size: int, seed: int
) -> grain.MapDataset:
    """Endless batches, each epoch in another order; this process's share of them.

    Images without an object to train on are left out; see :class:`RecordIndex`. A record that
    cannot be read is replaced by the next of its bucket.

    Args:
        source: of records as :mod:`experiments.data.coco` gives them.
        index: of all of them.
        config: of the run.
        batch_size: over all processes; they share a batch, whose examples do not depend on their
            number.
        seed: of order and flips.

    Returns:
        Batches of ``b = batch_size / processes`` with ``image``, uint8 ``[b, H, W, 3]``; ``size``,
        int32 ``[b, 2]``, its height and width within the bucket; ``boxes``, float32
        ``[b, max_objects, 4]``, x1, y1, x2, y2 in pixels; ``labels``, int32 ``[b, max_objects]``,
        -1 for padding; ``crowd``, bool ``[b, max_objects]``; with a ``mask_side`` ``masks``, uint8
        ``[b, max_objects, mask_side, mask_side]``, relative to the boxes, 0 or 1; ``record``, int64
        ``[b]``, and ``unreadable``, int64 ``[b, n]``; see
        :class:`experiments.data.records.ReadableRecords`. ``n`` is 4, or the number of records of
        the bucket where there are fewer.

    Raises:
        DataError: no record is usable, or one has more than ``max_objects`` objects.
        ConfigError: ``batch_size`` is no multiple of the number of processes.
        ValueError: the index is of another number of records.
    """
    share = share_of_process(batch_size)
    _check_index(source, index)
    _check_objects(index, config)
    dataset = grain.MapDataset.source(_OrderedExamples(source, index, config, batch_size, seed))
    dataset = dataset.seed(seed).random_map(_TrainingView(config))
    # Sharded only now: before, every process would mirror the same.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    source: Source, index: RecordIndex, config: DataConfig, batch_size: int
) -> grain.MapDataset:
    """Batches of all images of a source, landscape ones first; this process's share of them.

    Args:
        source: of records as :mod:`experiments.data.coco` gives them; one without objects is as
            good as any.
        index: of all of them.
        config: of the run.
        batch_size: over all processes.

    Returns:
        Batches with ``image`` and ``size`` as :func:`training_batches` has them;
        ``original_size``, int32 ``[b, 2]``, height and width before resizing; and ``weight``,
        float32 ``[b]``, ``record``, int64 ``[b]``, and ``unreadable``, int64 ``[b, 1]``; see
        :class:`experiments.data.records.PaddedRecords`. What has weight 0 is black, of the bucket's
        whole size.

    Raises:
        ConfigError: ``batch_size`` is no multiple of the number of processes.
        ValueError: the index is of another number of records.
    """
    share = share_of_process(batch_size)
    _check_index(source, index)
    buckets = [
        grain.MapDataset.source(
            PaddedRecords(
                source,
                functools.partial(_evaluation_example, config=config, portrait=portrait),
                batch_size,
                _blank(bucket_shape(config, portrait)),
                numbers,
            )
        )
        for portrait, numbers in _buckets(index, np.ones(len(index), bool))
    ]
    dataset = grain.MapDataset.concatenate(buckets)[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def _check_index(source: Source, index: RecordIndex) -> None:
    if len(index) != len(source):
        raise ValueError(f"index must be of {len(source)} records, got one of {len(index)}")


def _check_objects(index: RecordIndex, config: DataConfig) -> None:
    if not index.usable.any():
        raise DataError(
            f"expected at least one image with an object to train on, got none in {len(index)}"
        )
    fullest = int(index.objects.argmax())
    if index.objects[fullest] > config.max_objects:
        raise DataError(
            f"max_objects must be at least {index.objects[fullest]}, which record {fullest} (image "
            f"{index.image_id[fullest]}) has, got {config.max_objects}"
        )


def _buckets(index: RecordIndex, chosen: np.ndarray) -> list[tuple[bool, np.ndarray]]:
    """The buckets that have chosen records: whether it is portrait, and the records' numbers."""
    numbers = {
        portrait: np.flatnonzero(chosen & (index.portrait == portrait))
        for portrait in (False, True)
    }
    return [(portrait, found) for portrait, found in numbers.items() if len(found)]


def _training_example(record: Mapping[str, Any], mask_side: int | None) -> dict[str, Any]:
    return {"image": decode_image(record), "objects": training_objects(record, mask_side)}


class _OrderedExamples:
    """The examples of an endless training, not yet resized, and the bucket of each."""

    def __init__(
        self, source: Source, index: RecordIndex, config: DataConfig, batch_size: int, seed: int
    ) -> None:
        decode = functools.partial(_training_example, mask_side=config.mask_side)
        self._buckets = [
            (
                portrait,
                ReadableRecords(source, decode, min(_ATTEMPTS, len(numbers)), numbers),
            )
            for portrait, numbers in _buckets(index, index.usable)
        ]
        counts = [len(records) for _, records in self._buckets]
        self._order = BucketedOrder(counts, batch_size, seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        bucket, position = self._order[index]
        portrait, records = self._buckets[bucket]
        return {**records[position], "portrait": portrait}


class _TrainingView(grain.transforms.RandomMap):
    """Resizes an example into its bucket, and mirrors half of them."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        image, portrait = element["image"], element["portrait"]
        original = (image.height, image.width)
        size = resized_size(*original, self._config, portrait)
        flip = self._config.flip and rng.random() < 0.5
        objects = scaled(element["objects"], original, size)
        if flip:
            objects = flipped(objects, size[1])
        return {
            "image": fit_image(image, size, bucket_shape(self._config, portrait), flip),
            "size": np.array(size, np.int32),
            **padded(objects, self._config.max_objects),
            RECORD: element[RECORD],
            UNREADABLE: element[UNREADABLE],
        }


def _evaluation_example(
    record: Mapping[str, Any], config: DataConfig, portrait: bool
) -> dict[str, Any]:
    image = decode_image(record)
    original = (image.height, image.width)
    size = resized_size(*original, config, portrait)
    return {
        "image": fit_image(image, size, bucket_shape(config, portrait)),
        "size": np.array(size, np.int32),
        "original_size": np.array(original, np.int32),
    }


def _blank(shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "image": np.zeros((*shape, 3), np.uint8),
        "size": np.array(shape, np.int32),
        "original_size": np.array(shape, np.int32),
    }
