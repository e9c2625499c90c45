"""Evaluation of a detector on a dataset, on any number of devices and processes."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import grain
import numpy as np

from experiments.detection.evaluation.coco_metrics import Kind, coco_metrics
from experiments.detection.evaluation.ground_truth import GroundTruth
from experiments.detection.evaluation.metric_names import logged_name
from experiments.detection.evaluation.results import Result, image_results, write_results
from experiments.engine.batch_fields import RECORD, UNREADABLE
from experiments.engine.distributed import gather_bytes, is_primary
from experiments.engine.errors import InputError
from experiments.engine.evaluation import (
    NonFiniteEvaluationError,
    check_not_empty,
    check_unreadable,
)
from experiments.engine.input import Input, unreadable_records
from experiments.engine.parallel import data_parallel, join, replicate
from experiments.engine.text import shown

Detections = Mapping[str, Any]

# Fields of a batch from which results are computed, besides the detections.
_KEPT = ("size", "original_size", "weight")


class DetectionEvaluator:
    """COCO's metrics over a dataset. The step is compiled once for each shape of batches.

    Args:
        detect: function of a state and one device's share of a batch that returns detections, in
            the format of :func:`experiments.detection.evaluation.results.image_results` with a
            leading batch axis.
        dataset: a finite dataset of this process's batches, for
            :class:`experiments.engine.input.Input`. All processes have the same number of batches,
            and batches with the same index have the same shape. Examples with weight 0 are padding.
        ground_truth: annotations of all records.
        masks: whether the detections have masks, which are evaluated as well.
        workers: number of processes that prepare batches; 0 uses threads of this process.
        max_unreadable_records: largest number of images that may be unreadable.

    Raises:
        ConfigError: ``dataset`` has no batches.
    """

    def __init__(
        self,
        detect: Callable[[Any, Any], Detections],
        dataset: grain.MapDataset,
        ground_truth: GroundTruth,
        masks: bool = False,
        workers: int = 0,
        max_unreadable_records: int = 0,
    ) -> None:
        def step(state: Any, batch: Any) -> tuple[Detections, Any]:
            return detect(state, batch), {name: batch[name] for name in _KEPT}

        check_not_empty(dataset)
        self._step = data_parallel(step, per_example=True)
        self._dataset, self._workers = dataset, workers
        self._ground_truth, self._masks = ground_truth, masks
        self._max_unreadable_records = max_unreadable_records

    def results(self, state: Any) -> list[Result]:
        """Detects the objects in the dataset.

        Returns:
            The results of all processes, the same list on every process. They are sorted by image;
            the results of one image are in the order in which they were detected.

        Raises:
            UnreadableEvaluationError: too many images cannot be read, or no image can.
            NonFiniteEvaluationError: the detector's output has values that are NaN or infinite.
            ConfigError: no example has a weight.
        """
        return self._detect(state)[0]

    def __call__(self, state: Any, output: Path | None = None) -> dict[str, float]:
        """Evaluates the detector with a state.

        Args:
            state: state of the detector.
            output: folder for the detections, which the first process writes; see
                :func:`experiments.detection.evaluation.results.write_results`.

        Returns:
            The same metrics on every process: ``box_AP``, and ``box/AP50`` and the other ten
            metrics of :func:`experiments.detection.evaluation.coco_metrics.coco_metrics` as its
            details; with masks, the same for ``mask``; and ``unreadable``, the number of images
            that cannot be read, if there are any. Objects in unreadable images count as missed.
            Undefined metrics are left out.

        Raises:
            UnreadableEvaluationError: too many images cannot be read, or no image can.
            NonFiniteEvaluationError: the detector's output has values that are NaN or infinite.
            ConfigError: no example has a weight.
        """
        results, unreadable = self._detect(state)
        if output is not None and is_primary():
            write_results(output, results, self._masks)
        metrics = self._metrics_of("box", "bbox", results)
        if self._masks:
            metrics |= self._metrics_of("mask", "segm", results)
        return {**metrics, UNREADABLE: float(unreadable)} if unreadable else metrics

    def _metrics_of(
        self, compared: Literal["box", "mask"], kind: Kind, results: list[Result]
    ) -> dict[str, float]:
        metrics = coco_metrics(self._ground_truth.coco, results, kind)
        return {logged_name(compared, metric): value for metric, value in metrics.items()}

    def _detect(self, state: Any) -> tuple[list[Result], int]:
        state = replicate(state)
        own: list[Result] = []
        broken: list[int] = []  # ids of images
        unreadable: list[int] = []
        records = 0
        pending: tuple[Any, dict[str, np.ndarray]] | None = None
        with closing(Input(self._dataset, self._workers)) as data:
            for batch, host in data:
                found = self._step(state, batch)
                # The host processes the previous batch while the devices work on this one.
                if pending is not None:
                    own += self._results_of(*pending, broken)
                pending = found, host
                unreadable += unreadable_records(host)
                records += int((host[RECORD] >= 0).sum())  # -1 is padding
        if pending is not None:
            own += self._results_of(*pending, broken)
        left_out = check_unreadable(
            unreadable, records > len(unreadable), self._max_unreadable_records
        )
        if broken := sorted(_gathered(broken)):
            raise NonFiniteEvaluationError(
                f"the detector must give finite values, got NaN or infinity for {len(broken)} "
                f"images, with the ids {shown(broken)}: the parameters are broken, or the detector "
                "overflows"
            )
        # One process has all results of an image, and the sort is stable: they keep their order.
        return sorted(_gathered(own), key=lambda result: result["image_id"]), left_out

    def _results_of(
        self, found: Any, host: dict[str, np.ndarray], broken: list[int]
    ) -> list[Result]:
        """The results of a batch; adds the ids of images with non-finite values to ``broken``."""
        detections, kept = join(found)
        results: list[Result] = []
        for number in np.flatnonzero(kept["weight"]):
            image_id = int(self._ground_truth.image_ids[host[RECORD][number]])
            try:
                results += image_results(
                    {name: array[number] for name, array in detections.items()},
                    kept["size"][number],
                    kept["original_size"][number],
                    image_id,
                    self._ground_truth.category_ids,
                )
            except InputError:
                broken.append(image_id)
        return results


def _gathered[Value](own: list[Value]) -> list[Value]:
    """Concatenates the values of all processes, on every process."""
    # JSON text restores numbers exactly, to the last bit.
    parts = [json.loads(part) for part in gather_bytes(json.dumps(own).encode())]
    return [value for part in parts for value in part]
