"""The order in which a detector is trained on records of several buckets.

All images of a batch have one shape, so a batch is of one bucket. Each bucket is an endless
sequence of epochs, each a permutation of its records, cut into batches: what does not fill a batch
at the end of an epoch begins the first batch of the next, and no record is left out. In each epoch
the buckets' batches are mixed at random.
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# What a permutation is drawn for, besides the seed and the epoch.
_MIX = 0
_BUCKET = 1


class BucketedOrder:
    """Which record is where in an endless sequence of batches, found without those before it.

    Args:
        counts: number of records in each bucket, at least 1 in all.
        batch_size: number of indices in a row that are of one bucket.
        seed: of the permutations; at least 0.
    """

    def __init__(self, counts: Sequence[int], batch_size: int, seed: int) -> None:
        if min(counts, default=0) < 0 or sum(counts) < 1:
            raise ValueError(f"counts must be at least 0, and 1 in all, got {list(counts)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._counts = tuple(counts)
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return sys.maxsize  # as grain has it for what has no end

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The bucket of an example, and its record's number within it.

        Args:
            index: of the example; its batch's number is ``index // batch_size``.
        """
        batch, place = divmod(index, self._batch_size)
        epoch = self._epoch(batch)
        mixed = self._mixed_buckets(epoch)[: batch - sum(self._batches_before(epoch)) + 1]
        bucket = int(mixed[-1])
        earlier = self._batches_before(epoch)[bucket] + int((mixed[:-1] == bucket).sum())
        count = self._counts[bucket]
        bucket_epoch, position = divmod(earlier * self._batch_size + place, count)
        order = _permutation(self._seed, _BUCKET + bucket, bucket_epoch, count)
        return bucket, int(order[position])

    def _batches_before(self, epoch: int) -> list[int]:
        """Number of batches that each bucket has filled when an epoch begins."""
        return [epoch * count // self._batch_size for count in self._counts]

    def _epoch(self, batch: int) -> int:
        # A guess that is never too high, as counts are rounded down.
        epoch = batch * self._batch_size // sum(self._counts)
        while sum(self._batches_before(epoch + 1)) <= batch:
            epoch += 1
        return epoch

    def _mixed_buckets(self, epoch: int) -> Int[np.ndarray, "batches"]:
        """The bucket of each batch of an epoch."""
        ends, starts = self._batches_before(epoch + 1), self._batches_before(epoch)
        batches = np.subtract(ends, starts)
        buckets = np.repeat(np.arange(len(batches)), batches)
        return buckets[_permutation(self._seed, _MIX, epoch, len(buckets))]


# Those of the current epoch and of the next, for two buckets and their mixture.
@functools.lru_cache(maxsize=6)
def _permutation(seed: int, purpose: int, epoch: int, count: int) -> Int[np.ndarray, "count"]:
    return np.random.default_rng((seed, purpose, epoch)).permutation(count)
