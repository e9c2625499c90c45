"""Batches of images with label maps, by grain.

All images of a training batch are padded to one shape, at the bottom and on the right. Images are
sent to the device as bytes and normalised there, which takes a quarter of the traffic of float32.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import grain
import jax
import numpy as np
from PIL import Image

from experiments.data.bucketed_order import BucketedOrder
from experiments.data.label_maps import LabelMaps, decode_label
from experiments.data.record_images import decode_image, fit_image, pad_image, resize_image
from experiments.data.records import PaddedRecords, ReadableRecords
from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.parallel import share_of_process
from experiments.segmentation.data.augmentation import distorted, draw_distortion, random_crop
from experiments.segmentation.data.config import DataConfig, Split
from experiments.segmentation.data.images import fit_label, pad_label
from experiments.segmentation.data.shapes import (
    Bucket,
    Shape,
    bucket_of,
    bucket_shape,
    evaluation_sizes,
    training_size,
)

# In training, the largest number of consecutive records of a bucket that are tried when records
# cannot be read.
_ATTEMPTS = 4

# Distinguishes the random generator of the shorter sides from the generators of BucketedOrder,
# which have the seed and small numbers.
_SHORTER_SIDE = 2**31


def training_batches(
    data: LabelMaps, config: DataConfig, batch_size: int, seed: int
) -> grain.MapDataset:
    """This process's share of the training batches, an endless dataset.

    Each epoch has its own order. A record whose image or label map cannot be read is replaced by
    the next record of its bucket; see :mod:`.shapes`. For the view ``"crop"`` all records are in
    one bucket. A bucket with fewer records than a batch repeats them within its batches.

    Args:
        data: dataset from :func:`experiments.data.label_maps.open_label_maps`.
        config: config of the data.
        batch_size: number of examples in a batch over all processes. The examples of a batch do
            not depend on the number of processes.
        seed: seed of the order, of the shorter sides and of the random changes; at least 0.

    Returns:
        Batches of ``b = batch_size / processes`` examples with

        - ``image``, uint8 ``[b, H, W, 3]``, where ``(H, W)`` is one of
          :func:`experiments.segmentation.data.shapes.training_shapes`;
        - ``size``, int32 ``[b, 2]``, height and width of the image within the shape;
        - ``label``, uint8 ``[b, H, W]``, class of each pixel, 255 for no class and for padding;
        - ``record``, int64 ``[b]``, and ``unreadable``, int64 ``[b, n]``; see
          :class:`experiments.data.records.ReadableRecords`. ``n`` is 4, or the number of records
          in the bucket if that is smaller.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
        ValueError: the numbers of sizes and records differ, or there is no record.
    """
    share = share_of_process(batch_size)
    dataset = grain.MapDataset.source(_OrderedExamples(data, config, batch_size, seed))
    dataset = dataset.seed(seed).random_map(_TrainingView(config))
    # Shard after the random map: before it, all processes would draw the same flips.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    data: LabelMaps,
    config: DataConfig,
    batch_size: int,
    scales: Sequence[float] = (1.0,),
    split: Split = "validation",
) -> grain.MapDataset:
    """This process's share of batches of all images of a split, grouped by their sizes.

    Each image is resized to each scale and fills its array; see
    :func:`experiments.segmentation.data.shapes.evaluation_size`. Groups are in ascending order of
    their sizes, and each group is padded to whole batches.

    Args:
        data: dataset from :func:`experiments.data.label_maps.open_label_maps`. Its label maps are
            not read.
        config: config of the data.
        batch_size: number of examples in a batch over all processes.
        scales: factors of ``config.test_shorter`` and ``config.longer``.
        split: split of the dataset.

    Returns:
        Batches of ``b = batch_size / processes`` examples with

        - ``images``, a tuple of uint8 ``[b, H, W, 3]``, one array for each scale;
        - ``weight``, float32 ``[b]``, ``record``, int64 ``[b]``, and ``unreadable``, int64
          ``[b, 1]``; see :class:`experiments.data.records.PaddedRecords`. An example with weight 0
          is black.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
        ValueError: the numbers of sizes and records differ.
    """
    share = share_of_process(batch_size)
    source, sizes = data.source(split), _sizes(data, split)
    groups: dict[tuple[Shape, ...], list[int]] = {}
    for number, (height, width) in enumerate(sizes):
        groups.setdefault(evaluation_sizes(height, width, config, scales), []).append(number)
    datasets = [
        grain.MapDataset.source(
            PaddedRecords(
                source,
                functools.partial(_evaluation_example, shapes=shapes),
                batch_size,
                {"images": tuple(np.zeros((*shape, 3), np.uint8) for shape in shapes)},
                numbers,
            )
        )
        for shapes, numbers in sorted(groups.items())
    ]
    dataset = grain.MapDataset.concatenate(datasets)[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def _sizes(data: LabelMaps, split: Split) -> list[Shape]:
    """Height and width of each record of a split."""
    count, sizes = len(data.source(split)), data.sizes[split]
    if len(sizes) != count:
        raise ValueError(f"sizes of {split} must have {count} records, got {len(sizes)}")
    return [(int(height), int(width)) for height, width in sizes]


class _OrderedExamples:
    """An endless sequence of training examples, not yet resized, each with its bucket.

    The bucket is None for the view ``"crop"``. ``shorter_side`` is the same in all examples of a
    batch.
    """

    def __init__(self, data: LabelMaps, config: DataConfig, batch_size: int, seed: int) -> None:
        buckets: dict[Bucket | None, list[int]] = {}
        for number, (height, width) in enumerate(_sizes(data, "train")):
            cropped = config.augmentation == "crop"
            bucket = None if cropped else bucket_of(height, width, config)
            buckets.setdefault(bucket, []).append(number)
        self._buckets = [
            (
                bucket,
                ReadableRecords(
                    data.train, _training_example, min(_ATTEMPTS, len(numbers)), numbers
                ),
            )
            for bucket, numbers in buckets.items()
        ]
        counts = [len(records) for _, records in self._buckets]
        self._order = BucketedOrder(counts, batch_size, seed)
        self._shorter_sides = config.shorter_sides
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, position = self._order[index]
        bucket, records = self._buckets[number]
        rng = np.random.default_rng((self._seed, _SHORTER_SIDE, index // self._batch_size))
        shorter_side = int(rng.choice(self._shorter_sides))
        return {**records[position], "bucket": bucket, "shorter_side": shorter_side}


def _training_example(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"image": decode_image(record), "label": decode_label(record)}


class _TrainingView(grain.transforms.RandomMap):
    """Resizes or crops an example, mirrors half of the examples and changes colours."""

    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        config = self._config
        flip = config.flip and rng.random() < 0.5
        if config.augmentation == "crop":
            image, label, size = self._cropped(element["image"], element["label"], flip, rng)
        else:
            shape = bucket_shape(element["bucket"], element["shorter_side"], config)
            height, width = element["label"].shape
            size = training_size(height, width, element["shorter_side"], shape, config)
            image = fit_image(element["image"], size, shape, flip)
            label = fit_label(element["label"], size, shape, flip)
        if config.distort:
            content = image[: size[0], : size[1]]  # padding stays black
            content[:] = distorted(np.ascontiguousarray(content), draw_distortion(rng))
        return {
            "image": image,
            "size": np.array(size, np.int32),
            "label": label,
            RECORD: element[RECORD],
            UNREADABLE: element[UNREADABLE],
        }

    def _cropped(
        self, image: Image.Image, label: np.ndarray, flip: bool, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, Shape]:
        """A padded crop of an image and of its label map, and the size of the crop."""
        crop, crop_label = random_crop(image, label, rng, self._config)
        if flip:
            crop, crop_label = crop[:, ::-1], crop_label[:, ::-1]
        height, width = crop_label.shape
        shape = (self._config.crop_side, self._config.crop_side)
        return pad_image(crop, shape), pad_label(crop_label, shape), (height, width)


def _evaluation_example(
    record: Mapping[str, Any], shapes: tuple[Shape, ...]
) -> dict[str, tuple[np.ndarray, ...]]:
    image = decode_image(record)
    return {"images": tuple(resize_image(image, shape) for shape in shapes)}
