"""Batches of images with objects to detect, by grain.

All images of a batch belong to one bucket, landscape or portrait. Each image has its own ``size``
and lies in the top left corner of the bucket's shape. Images are sent to the device as bytes and
normalised there, which is a quarter of the traffic.
"""

import functools
from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np

from experiments.data.bucketed_order import BucketedOrder
from experiments.data.errors import DataError
from experiments.data.record_images import decode_image, fit_image
from experiments.data.records import PaddedRecords, ReadableRecords, Source
from experiments.detection.data.config import DataConfig
from experiments.detection.data.images import bucket_shape, resized_size
from experiments.detection.data.objects import flipped, padded, scaled, training_objects
from experiments.detection.data.record_index import RecordIndex
from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.parallel import share_of_process

# In training, the largest number of consecutive records of a bucket that are tried when records
# cannot be read.
_ATTEMPTS = 4


def training_batches(
    source: Source, index: RecordIndex, config: DataConfig, batch_size: int, seed: int
) -> grain.MapDataset:
    """This process's share of the training batches, an endless dataset.

    Each epoch has its own order. Images without an object to train on are left out; see
    :class:`RecordIndex`. A record that cannot be read is replaced by the next record of its bucket.

    Args:
        source: records in the format of :mod:`experiments.data.coco`.
        index: index of all records of ``source``.
        config: config of the data.
        batch_size: number of examples in a batch over all processes. The examples of a batch do
            not depend on the number of processes.
        seed: seed of the order and of the flips.

    Returns:
        Batches of ``b = batch_size / processes`` examples with

        - ``image``, uint8 ``[b, H, W, 3]``;
        - ``size``, int32 ``[b, 2]``, height and width of the image within the bucket;
        - ``boxes``, float32 ``[b, max_objects, 4]``, x1, y1, x2, y2 in pixels;
        - ``labels``, int32 ``[b, max_objects]``, -1 for padding;
        - ``crowd``, bool ``[b, max_objects]``;
        - ``masks``, uint8 ``[b, max_objects, mask_side, mask_side]``, 0 or 1, relative to the
          boxes, if ``mask_side`` is set;
        - ``record``, int64 ``[b]``, and ``unreadable``, int64 ``[b, n]``; see
          :class:`experiments.data.records.ReadableRecords`. ``n`` is 4, or the number of records
          in the bucket if that is smaller.

    Raises:
        DataError: no record is usable, or one has more than ``max_objects`` objects.
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
        ValueError: ``index`` and ``source`` have different numbers of records.
    """
    share = share_of_process(batch_size)
    _check_index(source, index)
    _check_objects(index, config)
    dataset = grain.MapDataset.source(_OrderedExamples(source, index, config, batch_size, seed))
    dataset = dataset.seed(seed).random_map(_TrainingView(config))
    # Shard after the random map: before it, all processes would draw the same flips.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    source: Source, index: RecordIndex, config: DataConfig, batch_size: int
) -> grain.MapDataset:
    """This process's share of batches of all images of a source, landscape images first.

    Args:
        source: records in the format of :mod:`experiments.data.coco`. Images without objects are
            included.
        index: index of all records of ``source``.
        config: config of the data.
        batch_size: number of examples in a batch over all processes.

    Returns:
        Batches with ``image`` and ``size``, as in :func:`training_batches`; ``original_size``,
        int32 ``[b, 2]``, height and width before resizing; and ``weight``, float32 ``[b]``,
        ``record``, int64 ``[b]``, and ``unreadable``, int64 ``[b, 1]``; see
        :class:`experiments.data.records.PaddedRecords`. An example with weight 0 is a black image
        of the bucket's full size.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
        ValueError: ``index`` and ``source`` have different numbers of records.
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
        raise ValueError(f"index must have {len(source)} records, got {len(index)}")


def _check_objects(index: RecordIndex, config: DataConfig) -> None:
    if not index.usable.any():
        raise DataError(
            f"expected at least one image with an object to train on, got none in {len(index)}"
        )
    fullest = int(index.objects.argmax())
    if index.objects[fullest] > config.max_objects:
        raise DataError(
            f"max_objects must be at least {index.objects[fullest]}, the number of objects in "
            f"record {fullest} (image {index.image_id[fullest]}), got {config.max_objects}"
        )


def _buckets(index: RecordIndex, chosen: np.ndarray) -> list[tuple[bool, np.ndarray]]:
    """For each bucket with chosen records: whether it is portrait, and the record numbers."""
    numbers = {
        portrait: np.flatnonzero(chosen & (index.portrait == portrait))
        for portrait in (False, True)
    }
    return [(portrait, found) for portrait, found in numbers.items() if len(found)]


def _training_example(record: Mapping[str, Any], mask_side: int | None) -> dict[str, Any]:
    return {"image": decode_image(record), "objects": training_objects(record, mask_side)}


class _OrderedExamples:
    """An endless sequence of training examples, not yet resized, each with its bucket."""

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
    """Resizes an example to fit its bucket, and mirrors half of the examples."""

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
