"""Evaluation of a segmentation network on a dataset, on any number of devices and processes."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from jaxtyping import Array, Float, Int64, UInt8

from experiments.data.label_maps import decode_label
from experiments.data.records import RecordError, Source, read_record
from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.config import check
from experiments.engine.distributed import gather_bytes
from experiments.engine.evaluation import (
    NonFiniteEvaluationError,
    check_not_empty,
    check_unreadable,
)
from experiments.engine.input import Input, unreadable_records
from experiments.engine.parallel import data_parallel, join, replicate
from experiments.engine.text import printable, shown
from experiments.segmentation.evaluation.class_maps import Tiles, class_map, is_finite
from experiments.segmentation.evaluation.confusion import confusion_matrix, segmentation_metrics

Infer = Callable[[Any, UInt8[Array, "batch H W 3"]], Float[Array, "batch h w classes"]]


class _Segmented(NamedTuple):
    """An image whose class map the device may still be computing."""

    number: int  # in the batch
    name: str
    label: UInt8[np.ndarray, "height width"]
    tiles: Tiles


class SegmentationEvaluator:
    """The metrics of a network over a dataset, at the original size of each image.

    The network is compiled once for each shape of images.

    Args:
        infer: function from a state and one device's share of images, uint8 ``[b, H, W, 3]``, to
            logits ``[b, h, w, C]``.
        dataset: a finite dataset of this process's batches, for
            :class:`experiments.engine.input.Input`. All processes have the same number of batches,
            and batches with the same index have the same shapes. ``images`` is a tuple with a uint8
            array ``[b, H, W, 3]`` for each scale. Examples with ``weight`` 0 are padding.
        source: records of the dataset, in the format of :mod:`experiments.data.label_maps`.
        class_names: names of the C classes, all different.
        workers: number of processes that prepare batches; 0 uses threads of this process.
        max_unreadable_records: largest number of images that may be unreadable.
        flip: whether the mirrored images are further views of each image.

    Raises:
        ConfigError: ``dataset`` has no batches, or two classes have the same name.
    """

    def __init__(
        self,
        infer: Infer,
        dataset: grain.MapDataset,
        source: Source,
        class_names: Sequence[str],
        workers: int = 0,
        max_unreadable_records: int = 0,
        flip: bool = False,
    ) -> None:
        def mirror(state: Any, maps: Any) -> Any:
            del state
            return maps[:, :, ::-1]

        def finite(state: Any, views: Any) -> jax.Array:
            del state
            return is_finite(views)

        check_not_empty(dataset)
        distinct = len(set(class_names)) == len(class_names)
        check(distinct, "class_names", "all different", list(class_names))
        # Every view has its own call: the same size occurs beside many other sizes. All functions
        # have the state as an argument, because ``pmap`` confuses the axes after an empty one.
        self._infer = data_parallel(infer, per_example=True)
        self._mirror = data_parallel(mirror, per_example=True) if flip else None
        self._finite = data_parallel(finite, per_example=True)
        self._dataset, self._workers = dataset, workers
        self._source, self._class_names = source, tuple(class_names)
        self._max_unreadable_records = max_unreadable_records

    def matrix(self, state: Any) -> Int64[np.ndarray, "classes classes"]:
        """Computes the confusion matrix of all images.

        Args:
            state: state of the network.

        Returns:
            The same matrix on every process, as in
            :func:`experiments.segmentation.evaluation.confusion.confusion_matrix`.

        Raises:
            UnreadableEvaluationError: too many images or labels cannot be read, or no image can.
            NonFiniteEvaluationError: the logits have values that are NaN or infinite.
            ConfigError: no example has a weight, or no pixel has a label.
        """
        return self._evaluate(state)[0]

    def __call__(self, state: Any) -> dict[str, float]:
        """Evaluates the network with a state.

        Args:
            state: state of the network.

        Returns:
            The same metrics on every process, as in
            :func:`experiments.segmentation.evaluation.confusion.segmentation_metrics`; and
            ``unreadable``, the number of images that cannot be read, if there are any. Unreadable
            images are left out.

        Raises:
            UnreadableEvaluationError: too many images or labels cannot be read, or no image can.
            NonFiniteEvaluationError: the logits have values that are NaN or infinite.
            ConfigError: no example has a weight, or no pixel has a label.
        """
        matrix, unreadable = self._evaluate(state)
        metrics = segmentation_metrics(matrix, self._class_names)
        return {**metrics, UNREADABLE: float(unreadable)} if unreadable else metrics

    def _evaluate(self, state: Any) -> tuple[np.ndarray, int]:
        state = replicate(state)
        classes = len(self._class_names)
        matrix = np.zeros((classes, classes), np.int64)
        broken: list[str] = []  # names of images
        unreadable: list[int] = []
        evaluated = False
        pending: tuple[list[_Segmented], Any] | None = None
        with closing(Input(self._dataset, self._workers)) as data:
            for batch, host in data:
                views = self._views(state, batch["images"])
                finite = self._finite(state, views)
                unreadable += unreadable_records(host)
                weight = join(batch["weight"])
                segmented = self._start(views, weight, host[RECORD], unreadable)
                evaluated |= bool(segmented)
                # The host counts the previous batch while the devices work on this one.
                if pending is not None:
                    _count(*pending, matrix, broken)
                pending = segmented, finite
        if pending is not None:
            _count(*pending, matrix, broken)
        left_out = check_unreadable(unreadable, evaluated, self._max_unreadable_records)
        parts = [json.loads(part) for part in gather_bytes(json.dumps(broken).encode())]
        if names := sorted(name for part in parts for name in part):
            raise NonFiniteEvaluationError(
                f"the network must give finite logits, got NaN or infinity for {len(names)} "
                f"images, {shown(names)}: the parameters are broken, or the network overflows"
            )
        matrices = [np.frombuffer(part, np.int64) for part in gather_bytes(matrix.tobytes())]
        matrix = np.sum(matrices, axis=0).reshape(matrix.shape)
        check(
            bool(matrix.any()), "dataset", "of images with a labelled pixel to evaluate on", "none"
        )
        return matrix, left_out

    def _views(self, state: Any, images: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """The logits of each scale, and of its mirrored images, mirrored back."""
        views = []
        for image in images:
            views.append(self._infer(state, image))
            if self._mirror is not None:
                mirrored = self._infer(state, self._mirror(state, image))
                views.append(self._mirror(state, mirrored))
        return tuple(views)

    def _start(
        self,
        views: tuple[jax.Array, ...],
        weight: np.ndarray,
        records: np.ndarray,
        unreadable: list[int],
    ) -> list[_Segmented]:
        """Reads the labels of a batch while the devices work, and starts to compute class maps.

        Adds the numbers of records whose label cannot be read to ``unreadable``.
        """
        found = []
        shares = list(zip(*map(_shares, views), strict=True))  # views of each device
        share = len(weight) // len(shares)
        for number in np.flatnonzero(weight).tolist():
            index = int(records[number])
            try:
                record = read_record(self._source, index)
                label = decode_label(record)
            except RecordError:
                unreadable.append(index)
                continue
            tiles = class_map(shares[number // share], number % share, *label.shape)
            found.append(_Segmented(number, printable(record["file_name"]), label, tiles))
        return found


def _shares(view: jax.Array) -> list[jax.Array]:
    """The logits of each local device, ``[b, h, w, C]``, which stay there."""
    shards = sorted(view.addressable_shards, key=lambda shard: shard.index[0].start)
    return [shard.data.reshape(view.shape[1:]) for shard in shards]


def _count(
    segmented: list[_Segmented], finite: jax.Array, matrix: np.ndarray, broken: list[str]
) -> None:
    """Adds the pixels of a batch to ``matrix``, and images with non-finite logits to ``broken``."""
    is_usable = join(finite)
    for image in segmented:
        if is_usable[image.number]:
            matrix += confusion_matrix(image.label, image.tiles.joined(), len(matrix))
        else:
            broken.append(image.name)
