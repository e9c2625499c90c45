"""Batches of images to classify, made with tfds and grain.

A batch is a dict of ``image``, uint8 ``[B, S, S, 3]``, ``label``, int32 ``[B]``, and the fields
that :mod:`experiments.data.records` adds. Images are sent to the device as bytes and normalised
there, because float32 would need four times the traffic.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds

from experiments.classification.data_config import DataConfig
from experiments.classification.images import decode_image, evaluation_crop, training_crop
from experiments.data import imagenet
from experiments.data.classes import check_classes
from experiments.data.composed import cutouts, digits
from experiments.data.prepared import open_builder
from experiments.data.records import PaddedRecords, ReadableRecords, Source
from experiments.engine.folders import DataFolders
from experiments.engine.parallel import share_of_process


@dataclasses.dataclass(frozen=True)
class ClassificationData:
    """A dataset on disk.

    Attributes:
        train: training records with ``image``, still encoded, and ``label``.
        validation: validation records with the same fields.
        class_names: names of the classes, by label.
    """

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def open_data(config: DataConfig, folders: DataFolders) -> ClassificationData:
    """Opens a dataset, after building it if it is one of the small ones.

    Args:
        config: data config of the run.
        folders: folders of datasets, and of the files from which ``"cutouts"`` is composed.

    Raises:
        DataError: ImageNet, or the files from which a small dataset is composed, are missing or
            invalid; or the dataset has another number of classes.
    """
    if config.source == "imagenet2012":
        folder = imagenet.imagenet_folder(folders.data_dir)
    elif config.source == "digits":
        folder = digits.prepare(folders.data_dir)
    else:
        photographs = cutouts.CutoutsConfig(photographs=config.photographs)
        folder = cutouts.prepare(folders.data_dir, folders.cache, photographs)
    data = open_folder(folder)
    check_classes(config.source, data.class_names, folder)
    return data


def open_folder(folder: Path) -> ClassificationData:
    """Opens a prepared tfds dataset with ``image`` and ``label``, for training and validation.

    Args:
        folder: folder of one version, such as ``data/imagenet2012/5.1.0``.
    """
    builder = open_builder(folder)
    train, validation = (
        builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        for split in ("train", "validation")
    )
    return ClassificationData(train, validation, tuple(builder.info.features["label"].names))


def training_batches(
    data: ClassificationData, config: DataConfig, batch_size: int, seed: int
) -> grain.MapDataset:
    """Returns this process's share of the training batches, an endless dataset.

    Each epoch has another order.

    Args:
        data: dataset from :func:`open_data`.
        config: data config of the run.
        batch_size: number of examples in a batch, over all processes. The examples do not depend on
            the number of processes.
        seed: seed of order and crops.

    Returns:
        Batches of random crops with ``image``, ``label``, ``record``, int64 ``[B]``, and
        ``unreadable``, int64 ``[B, 4]``; see :class:`experiments.data.records.ReadableRecords`.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    records = ReadableRecords(data.train, _decoded)
    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_TrainingCrop(config))
    # Sharded after the crops, which would otherwise be the same on all processes.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    data: ClassificationData, config: DataConfig, batch_size: int
) -> grain.MapDataset:
    """Returns this process's share of the batches of all validation images, cropped centrally.

    Args:
        data: dataset from :func:`open_data`.
        config: data config of the run.
        batch_size: number of examples in a batch, over all processes.

    Returns:
        Batches with ``image``, ``label``, ``weight``, float32 ``[B]``, ``record``, int64 ``[B]``,
        and ``unreadable``, int64 ``[B, 1]``; see :class:`experiments.data.records.PaddedRecords`.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    side = config.image_side
    blank = {"image": np.zeros((side, side, 3), np.uint8), "label": np.int32(0)}
    decode = functools.partial(_evaluation_example, config=config)
    records = PaddedRecords(data.validation, decode, batch_size, blank)
    dataset = grain.MapDataset.source(records)[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    return {"image": decode_image(record["image"]), "label": np.int32(record["label"])}


def _evaluation_example(record: dict[str, Any], config: DataConfig) -> dict[str, Any]:
    example = _decoded(record)
    return {**example, "image": evaluation_crop(example["image"], config)}


class _TrainingCrop(grain.transforms.RandomMap):
    def __init__(self, config: DataConfig) -> None:
        self._config = config

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {**element, "image": training_crop(element["image"], rng, self._config)}
