"""Evaluation of a network on cached features, on any number of devices and processes."""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int64

from experiments.data.classes import UNLABELLED
from experiments.engine.batch_fields import RECORD
from experiments.engine.config import check
from experiments.engine.distributed import gather_bytes
from experiments.engine.evaluation import NonFiniteEvaluationError, check_not_empty
from experiments.engine.input import Input
from experiments.engine.parallel import data_parallel, join, replicate
from experiments.engine.text import shown
from experiments.pyramid.borders import border_pixels
from experiments.pyramid.metric_names import MEAN_IOU_OF_BORDERS
from experiments.resamplers.interpolation import resize
from experiments.segmentation.evaluation.confusion import confusion_matrix, segmentation_metrics
from experiments.segmentation.evaluation.metric_names import MEAN_IOU

# Greatest distance in pixels between a pixel near a border and a pixel of another class.
BORDER = 4

Infer = Callable[[Any, Any], Float[Array, "batch h w classes"]]


class SceneMatrices(NamedTuple):
    """The confusion matrices of each scene, as in :func:`confusion_matrix`.

    The matrices of several scenes can be added, and
    :func:`experiments.segmentation.evaluation.confusion.segmentation_metrics` computes metrics from
    the sum.

    Attributes:
        whole: matrices of all pixels, int64 ``[N, C, C]``, in the order of the scenes in the split.
        border: matrices of the pixels that are at most :data:`BORDER` pixels from a pixel of
            another class, int64 ``[N, C, C]``.
    """

    whole: Int64[np.ndarray, "scenes classes classes"]
    border: Int64[np.ndarray, "scenes classes classes"]


class PyramidEvaluator:
    """The metrics of a network over all scenes of a split, at the resolution of the labels.

    The network is compiled once for each size of images.

    Args:
        infer: function from a state and one device's share of ``maps`` to logits ``[b, h, w, C]``.
        dataset: batches from :func:`experiments.pyramid.batches.evaluation_batches`.
        scenes: number of scenes of the split.
        class_names: names of the C classes.
        workers: number of processes that prepare batches; 0 uses threads of this process.

    Raises:
        ConfigError: ``dataset`` has no batches.
    """

    def __init__(
        self,
        infer: Infer,
        dataset: grain.MapDataset,
        scenes: int,
        class_names: Sequence[str],
        workers: int = 0,
    ) -> None:
        def predict(state: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
            logits = infer(state, batch["maps"])
            finite = jnp.isfinite(logits).all(axis=(1, 2, 3))
            classes = resize(logits, batch["label"].shape[1:]).argmax(axis=-1)
            return classes.astype(jnp.uint8), finite

        check_not_empty(dataset)
        self._predict = data_parallel(predict, per_example=True)
        self._dataset, self._scenes, self._workers = dataset, scenes, workers
        self._class_names = tuple(class_names)

    def __call__(self, state: Any) -> dict[str, float]:
        """Evaluates the network with a state.

        Args:
            state: state of the network.

        Returns:
            The same metrics on every process: those of
            :func:`experiments.segmentation.evaluation.confusion.segmentation_metrics` over all
            pixels; and ``mIoU_border``, the mean IoU over the pixels near borders.

        Raises:
            NonFiniteEvaluationError: the logits have values that are NaN or infinite.
        """
        matrices = self.matrices(state)
        whole, border = (
            segmentation_metrics(each.sum(axis=0), self._class_names) for each in matrices
        )
        return {
            MEAN_IOU: whole.pop(MEAN_IOU),
            MEAN_IOU_OF_BORDERS: border[MEAN_IOU],
            **whole,
        }

    def matrices(self, state: Any) -> SceneMatrices:
        """Computes the confusion matrices of each scene; the same on every process.

        Args:
            state: state of the network.

        Raises:
            NonFiniteEvaluationError: the logits have values that are NaN or infinite.
        """
        state = replicate(state)
        classes = len(self._class_names)
        counts = np.zeros((2, self._scenes, classes, classes), np.int64)
        broken: list[int] = []
        with closing(Input(self._dataset, self._workers)) as data:
            pending = None
            for batch, host in data:
                # An example with weight 0 does not count: padding, and images that a study of
                # kernels leaves out.
                numbers = np.where(join(batch["weight"]) > 0, host[RECORD], -1)
                predicted = self._predict(state, batch), batch["label"], numbers
                # The host counts the previous batch while the devices work on this one.
                if pending is not None:
                    broken += _count(*pending, counts)
                pending = predicted
        if pending is not None:
            broken += _count(*pending, counts)
        parts = [json.loads(part) for part in gather_bytes(json.dumps(broken).encode())]
        if found := sorted(number for part in parts for number in part):
            raise NonFiniteEvaluationError(
                f"the network must give finite logits, got NaN or infinity for {len(found)} "
                f"scenes, {shown(found)}: the parameters are broken, or the network overflows"
            )
        gathered = [np.frombuffer(part, np.int64) for part in gather_bytes(counts.tobytes())]
        counts = np.sum(gathered, axis=0).reshape(counts.shape)
        check(bool(counts.any()), "dataset", "of scenes with a labelled pixel", "none")
        return SceneMatrices(*counts)


def _count(
    predicted: tuple[jax.Array, jax.Array],
    label: jax.Array,
    records: np.ndarray,
    counts: Int64[np.ndarray, "2 scenes classes classes"],
) -> list[int]:
    """Writes the matrices of a batch to ``counts``; returns scenes with non-finite logits."""
    classes, finite, labels = join((*predicted, label))
    near = border_pixels(labels, BORDER)
    broken = []
    for number, is_finite, predicted_classes, scene_label, border in zip(
        map(int, records), finite, classes, labels, near, strict=True
    ):
        if number < 0:
            continue
        if not is_finite:
            broken.append(number)
            continue
        for part, kept in enumerate(
            (scene_label, np.where(border, scene_label, np.uint8(UNLABELLED)))
        ):
            counts[part, number] = confusion_matrix(kept, predicted_classes, counts.shape[-1])
    return broken
