"""Batches in which the kernels of each image can be replaced by the kernels of another image."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from experiments.engine.config import check

Batch = dict[str, Any]
WEIGHT = "weight"


def shuffled_batches(
    batches: grain.MapDataset, inputs: Sequence[str], devices: int
) -> grain.MapDataset:
    """Returns batches in which the previous image of each real image is another real image.

    The last batch of a dataset, or of the images of one size, has padding, and images that cannot
    be read are blank; all of these have weight 0. Here, each of these examples holds the inputs of
    the nearest real image before it in the share of its device, where the last image counts as
    before the first. If the share has a single real image, they hold the inputs of a real image of
    another share, or of the batch before or after, if it has the same shape. Their weight stays 0.
    So blank images do not influence the kernels of ``"shuffled"``; see
    :func:`experiments.kernel_studies.replacement.replaced_kernels`.

    Args:
        batches: finite batches of this process, dicts of arrays with one leading batch axis, with
            ``weight``.
        inputs: names of the fields that the network reads; a field may be a tuple of arrays.
        devices: number of local devices, which have equal, consecutive shares of a batch.

    Returns:
        Batches with the same fields. An image for which there is no other image of its size has
        weight 0: it is left out.

    Raises:
        ConfigError: the share of a device has fewer than two images.
    """
    return grain.MapDataset.source(_Refilled(batches, inputs, devices))


class _Refilled:
    def __init__(self, batches: grain.MapDataset, inputs: Sequence[str], devices: int) -> None:
        self._batches, self._inputs, self._devices = batches, tuple(inputs), devices
        if len(batches):
            share = batches[0][WEIGHT].size // devices
            check(share >= 2, "batch_size", "at least two images for each device", share)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch:
        batch = self._batches[index]
        weight = batch[WEIGHT].copy()
        if weight.all():
            return batch
        own = {name: batch[name] for name in self._inputs}
        filled = jax.tree.map(np.copy, own)
        for share in np.split(np.arange(weight.size), self._devices):
            real, blank = share[weight[share] > 0], share[batch[WEIGHT][share] == 0]
            if real.size > 1:
                # The index -1 is the last real image.
                _copy(own, real[np.searchsorted(real, blank) - 1], filled, blank)
            elif real.size == 1:
                other = next(self._others(index, own, batch[WEIGHT], int(real[0])), None)
                if other is None:
                    weight[real] = 0
                else:
                    _copy(other.fields, np.full_like(blank, other.number), filled, blank)
        return {**batch, **filled, WEIGHT: weight}

    def _others(self, index: int, own: Any, weight: np.ndarray, number: int) -> Iterator["_Image"]:
        """Real images of the shape of an image: in its batch, in the one before, and after."""
        for other in np.flatnonzero(weight).tolist():
            if other != number:
                yield _Image(own, other)
        shapes = [array.shape for array in jax.tree.leaves(own)]
        for near in (index - 1, index + 1):
            if 0 <= near < len(self):
                batch = self._batches[near]
                fields = {name: batch[name] for name in self._inputs}
                if [array.shape for array in jax.tree.leaves(fields)] == shapes:
                    yield from (_Image(fields, i) for i in np.flatnonzero(batch[WEIGHT]).tolist())


class _Image(NamedTuple):
    """An image of a batch: the fields of the batch that the network reads, and its number."""

    fields: Any
    number: int


def _copy(source: Any, numbers: np.ndarray, target: Any, to: np.ndarray) -> None:
    """Copies images of a batch to the positions ``to`` of another batch, in place."""

    def copy_array(source: np.ndarray, target: np.ndarray) -> None:
        target[to] = source[numbers]

    jax.tree.map(copy_array, source, target)
