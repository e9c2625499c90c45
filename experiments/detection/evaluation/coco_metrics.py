"""Average precision and recall, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.detection.evaluation.ground_truth import coco_of
from experiments.detection.evaluation.metric_names import METRICS
from experiments.detection.evaluation.results import Result, of_kind

Kind = Literal["bbox", "segm"]


def coco_metrics(ground_truth: COCO, results: Sequence[Result], kind: Kind) -> dict[str, float]:
    """COCO's twelve numbers of detections.

    Args:
        ground_truth: all its images and categories are evaluated, those without detections too.
        results: in any order; of equal scores in one image the first counts as the better.
            pycocotools takes the best 100 of an image and category, and leaves out the others.
        kind: compares boxes, or masks.

    Returns:
        Of :data:`METRICS` those that are defined, in [0, 1]. ``AP`` is the mean of the precision
        over ten IoU thresholds from 0.5 to 0.95, over recalls and categories; ``AP50`` and
        ``AP75`` are at one threshold. ``AR1``, ``AR10`` and ``AR100`` are the mean of the recall
        over thresholds and categories, with at most 1, 10 or 100 detections of an image and
        category. ``AP_S`` and ``AR_S`` are of small objects (up to 32 x 32 pixels), ``AP_M`` and
        ``AR_M`` of medium and ``AP_L`` and ``AR_L`` of large ones (from 96 x 96), with at most 100
        detections. One for which there are no objects, for which pycocotools says -1, is left
        out. Without any results they are 0.

    Raises:
        ValueError: a result is of an unknown image or category; or masks are compared, and a
            result or an annotation has none.
    """
    found = of_kind(results, kind)
    _check_known(found, "image_id", ground_truth.imgs)
    _check_known(found, "category_id", ground_truth.cats)
    if kind == "segm":
        _check_masks(ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth, _load(ground_truth, found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = dict(zip(METRICS, evaluation.stats, strict=True))
    return {name: float(value) for name, value in values.items() if value >= 0}


def _load(ground_truth: COCO, results: list[dict[str, Any]]) -> COCO:
    if results:
        return ground_truth.loadRes(results)
    return coco_of({**ground_truth.dataset, "annotations": []})  # loadRes looks at the first one


def _check_known(results: list[dict[str, Any]], key: str, known: dict[int, Any]) -> None:
    if unknown := {result[key] for result in results} - known.keys():
        raise ValueError(
            f"results must have the {key} of an annotated image or category, got unknown ones: "
            f"{sorted(unknown)[:5]}"
        )


def _check_masks(ground_truth: COCO) -> None:
    annotations = ground_truth.dataset["annotations"]
    if lacking := sum("segmentation" not in annotation for annotation in annotations):
        raise ValueError(
            f"ground_truth must have masks for kind 'segm', got {lacking} of {len(annotations)} "
            "annotations without"
        )
