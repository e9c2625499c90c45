"""Batches of images to classify, by tfds and grain.

A batch is a dict of ``image``, uint8 ``[B, S, S, 3]``, ``label``, int32 ``[B]``, and what
:mod:`experiments.data.records` adds. Bytes go to the device, which normalises them: a quarter of
the traffic.
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
    """A data set on disk.

    Attributes:
        train: records with ``image``, still encoded, and ``label``.
        validation: records of the same form.
        class_names: by label.
    """

    train: Source
    validation: Source
    class_names: tuple[str, ...]


def open_data(config: DataConfig, folders: DataFolders) -> ClassificationData:
    """Opens a data set, and builds the small ones if need be.

    Args:
        config: of the run.
        folders: where data sets lie, and the files that ``"cutouts"`` is composed of.

    Raises:
        DataError: ImageNet, or what a small set is composed of, is not there or not as it must be;
            or the data set has another number of classes.
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
    """Opens a prepared tfds data set that has ``image``, ``label``, training and validation.

    Args:
        folder: of one version, such as ``data/imagenet2012/5.1.0``.
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
    """Endless batches of random crops, each epoch in another order; this process's share of them.

    Args:
        data: what :func:`open_data` gives.
        config: of the run.
        batch_size: over all processes; they share a batch, whose examples do not depend on their
            number.
        seed: of order and crops.

    Returns:
        Batches with ``image``, ``label``, ``record``, int64 ``[B]``, and ``unreadable``, int64
        ``[B, 4]``; see :class:`experiments.data.records.ReadableRecords`.

    Raises:
        ConfigError: ``batch_size`` is no multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    records = ReadableRecords(data.train, _decoded)
    dataset = grain.MapDataset.source(records).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_TrainingCrop(config))
    # Sharded only now: before, every process would draw the same crops.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(
    data: ClassificationData, config: DataConfig, batch_size: int
) -> grain.MapDataset:
    """Batches of central crops of all validation images; this process's share of them.

    Args:
        data: what :func:`open_data` gives.
        config: of the run.
        batch_size: over all processes.

    Returns:
        Batches with ``image``, ``label``, ``weight``, float32 ``[B]``, ``record``, int64 ``[B]``,
        and ``unreadable``, int64 ``[B, 1]``; see :class:`experiments.data.records.PaddedRecords`.

    Raises:
        ConfigError: ``batch_size`` is no multiple of the number of processes.
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
