"""Batches of cached features with label maps, by grain. All images of a batch have one size."""

from typing import Any

import grain
import jax
import numpy as np

from experiments.data.bucketed_order import BucketedOrder
from experiments.data.records import PaddedRecords
from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.parallel import share_of_process
from experiments.pyramid.features import Features, SizeGroup, Split


def training_batches(features: Features, batch_size: int, seed: int) -> grain.MapDataset:
    """Returns this process's share of the training batches, an endless dataset.

    Each epoch has another order; see :class:`experiments.data.bucketed_order.BucketedOrder`.

    Args:
        features: features of all images.
        batch_size: number of examples in a batch over all processes. The examples do not depend on
            the number of processes.
        seed: seed of the order; at least 0.

    Returns:
        Batches of ``b = batch_size / processes`` examples with

        - ``maps``, a tuple of C2, C3, C4 and C5, each float16 ``[b, H, W, C]``;
        - ``label``, uint8 ``[b, height, width]``, class of each pixel;
        - ``record``, int64 ``[b]``, number of the image within the split, and ``unreadable``, int64
          ``[b, 1]``, always -1.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    dataset = grain.MapDataset.source(_OrderedExamples(features.groups["train"], batch_size, seed))
    dataset = dataset[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


def evaluation_batches(features: Features, batch_size: int, split: Split) -> grain.MapDataset:
    """Returns this process's share of the batches of all images of a split, grouped by their sizes.

    Each group is padded to whole batches.

    Args:
        features: features of all images.
        batch_size: number of examples in a batch over all processes.
        split: split of the images.

    Returns:
        Batches as in :func:`training_batches`, with ``weight``, float32 ``[b]``, which is 0 for
        padding; the ``record`` of padding is -1.

    Raises:
        ConfigError: ``batch_size`` is not a multiple of the number of processes.
    """
    share = share_of_process(batch_size)
    datasets = [
        grain.MapDataset.source(_PaddedExamples(group, batch_size))
        for group in features.groups[split]
    ]
    dataset = grain.MapDataset.concatenate(datasets)[jax.process_index() :: jax.process_count()]
    return dataset.batch(share, drop_remainder=True)


class _OrderedExamples:
    """An endless sequence of training examples."""

    def __init__(self, groups: tuple[SizeGroup, ...], batch_size: int, seed: int) -> None:
        self._groups = groups
        self._order = BucketedOrder([len(group) for group in groups], batch_size, seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = self._order[index]
        group = self._groups[number]
        return {
            **group[row],
            RECORD: np.int64(group.numbers[row]),
            UNREADABLE: np.full(1, -1, np.int64),
        }


class _PaddedExamples:
    """The images of one size, padded to a multiple of the batch size."""

    def __init__(self, group: SizeGroup, batch_size: int) -> None:
        blank = {
            "maps": tuple(np.zeros_like(each) for each in group[0]["maps"]),
            "label": np.zeros_like(group[0]["label"]),
        }
        self._group = group
        self._records = PaddedRecords(group, lambda example: example, batch_size, blank)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._records[index]
        row = int(example[RECORD])
        number = -1 if row < 0 else self._group.numbers[row]
        return {**example, RECORD: np.int64(number)}
