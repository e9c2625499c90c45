"""Batches of images with holes, by tfds and grain.

A batch is a dict of ``image`` ``[B, S, S, 3]``, float32 in [-1, 1], ``mask`` ``[B, S, S, 1]``,
float32, 1 in the hole, and what :mod:`experiments.data.records` adds.
"""

from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float, UInt8

from experiments.data.masks import free_form_mask
from experiments.data.records import PaddedRecords, ReadableRecords
from experiments.inpainting.configs import DataConfig

Batch = dict[str, np.ndarray]


def to_unit(image: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Maps bytes to [-1, 1] (section 5.1)."""
    return image.astype(np.float32) / 127.5 - 1


def to_bytes(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Inverse of :func:`to_unit`, rounded and clipped."""
    return np.clip(np.round((np.asarray(image) + 1) * 127.5), 0, 255).astype(np.uint8)


def _example(crop: UInt8[np.ndarray, "side side 3"], rng: np.random.Generator) -> Batch:
    mask = free_form_mask(rng, *crop.shape[:2])
    return {"image": to_unit(crop), "mask": mask[..., None].astype(np.float32)}


class _RandomCropFlipAndHole(grain.transforms.RandomMap):
    def __init__(self, side: int) -> None:
        self._side = side

    def random_map(self, element: dict[str, Any], rng: np.random.Generator) -> Batch:
        image = element["image"]
        top, left = (rng.integers(n - self._side, endpoint=True) for n in image.shape[:2])
        crop = image[top : top + self._side, left : left + self._side]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        told = {name: element[name] for name in ("record", "corrupt")}
        return {**_example(crop, rng), **told}


def _source(data_folder: Path, split: str) -> Any:
    return tfds.builder_from_directory(data_folder).as_data_source(split)


def training_batches(
    data_folder: Path, config: DataConfig, batch_size: int, seed: int
) -> grain.MapDataset:
    """Endless shuffled batches of random crops with random holes; this process's share of them."""
    source = ReadableRecords(_source(data_folder, "train"), lambda record: record)
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(_RandomCropFlipAndHole(config.crop_side))
    # Sharded only now: before, every process would draw the same holes.
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(batch_size // jax.process_count(), drop_remainder=True)


def validation_examples(data_folder: Path, config: DataConfig) -> list[Batch]:
    """The central crops of the validation photographs, each with a hole of its own.

    The hole depends on the record's number and the crop's side alone, so every model gets the same.
    """
    examples = []
    for number, record in enumerate(_source(data_folder, "validation")):
        image = record["image"]
        top, left = ((n - config.crop_side) // 2 for n in image.shape[:2])
        crop = image[top : top + config.crop_side, left : left + config.crop_side]
        examples.append(_example(crop, np.random.default_rng(number)))
    return examples


def evaluation_batches(examples: list[Batch], batch_size: int) -> grain.MapDataset:
    """This process's share of batches that hold every example once.

    They have a field ``weight``, 1 for examples and 0 for what fills up the last batch.
    """
    blank = {name: np.zeros_like(array) for name, array in examples[0].items()}
    records = PaddedRecords(examples, lambda example: example, batch_size, blank)
    dataset = grain.MapDataset.source(records)[jax.process_index() :: jax.process_count()]
    return dataset.batch(batch_size // jax.process_count())
