"""The order in which a network is trained on records of several buckets.

All images of a batch have one shape, so all are from one bucket. Each bucket is an endless sequence
of epochs, and each epoch is a permutation of the bucket's records. The sequence is cut into
batches: records that do not fill a batch at the end of an epoch begin the first batch of the next
epoch, so no record is left out. In each epoch the batches of all buckets are mixed at random.
"""

import functools
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# Purposes of a permutation; its random generator depends on the purpose, the seed and the epoch.
_MIX = 0
_BUCKET = 1  # of the first bucket; the next ones follow


class BucketedOrder:
    """An endless sequence of batches with random access to its examples.

    Args:
        counts: number of records in each bucket, at least 1 in total.
        batch_size: number of consecutive examples from one bucket.
        seed: seed of the permutations; at least 0.
    """

    def __init__(self, counts: Sequence[int], batch_size: int, seed: int) -> None:
        if min(counts, default=0) < 0 or sum(counts) < 1:
            raise ValueError(f"counts must be at least 0, and 1 in total, got {list(counts)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self._counts = tuple(counts)
        self._batch_size = batch_size
        self._seed = seed

    def __len__(self) -> int:
        return sys.maxsize  # grain's length of an endless dataset

    def __getitem__(self, index: int) -> tuple[int, int]:
        """The bucket of an example, and the number of its record within the bucket.

        Args:
            index: index of the example; it belongs to batch ``index // batch_size``.
        """
        batch, offset = divmod(index, self._batch_size)
        epoch = self._epoch(batch)
        mixed = self._mixed_buckets(epoch)[: batch - sum(self._batches_before(epoch)) + 1]
        bucket = int(mixed[-1])
        earlier = self._batches_before(epoch)[bucket] + int((mixed[:-1] == bucket).sum())
        count = self._counts[bucket]
        bucket_epoch, position = divmod(earlier * self._batch_size + offset, count)
        order = _permutation(self._seed, _BUCKET + bucket, bucket_epoch, count)
        return bucket, int(order[position])

    def _batches_before(self, epoch: int) -> list[int]:
        """Number of batches that each bucket has filled when an epoch begins."""
        return [epoch * count // self._batch_size for count in self._counts]

    def _epoch(self, batch: int) -> int:
        # This first guess is never too high, because numbers of batches are rounded down.
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


# Room for the current and the next epoch of seven buckets and of their mixture.
@functools.lru_cache(maxsize=16)
def _permutation(seed: int, purpose: int, epoch: int, count: int) -> Int[np.ndarray, "count"]:
    return np.random.default_rng((seed, purpose, epoch)).permutation(count)
