"""Average precision and average recall, by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Literal

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from experiments.detection.evaluation.ground_truth import make_coco
from experiments.detection.evaluation.metric_names import METRICS
from experiments.detection.evaluation.results import Result, results_for

Kind = Literal["bbox", "segm"]


def coco_metrics(ground_truth: COCO, results: Sequence[Result], kind: Kind) -> dict[str, float]:
    """Computes COCO's twelve metrics.

    Args:
        ground_truth: annotations. All images and categories are evaluated, including those without
            detections.
        results: detections in any order. If two scores in an image are equal, the first detection
            ranks higher. pycocotools evaluates the best 100 of each image and category only.
        kind: whether boxes or masks are compared.

    Returns:
        The metrics of :data:`METRICS` that are defined, in [0, 1]. ``AP`` is the mean precision
        over ten IoU thresholds from 0.5 to 0.95, over recalls and over categories; ``AP50`` and
        ``AP75`` use one threshold. ``AR1``, ``AR10`` and ``AR100`` are the mean recall over
        thresholds and categories, with at most 1, 10 or 100 detections per image and category.
        ``AP_S`` and ``AR_S`` evaluate small objects (up to 32 x 32 pixels), ``AP_M`` and ``AR_M``
        medium objects, ``AP_L`` and ``AR_L`` large objects (from 96 x 96 pixels), with at most 100
        detections. A metric without objects, for which pycocotools returns -1, is left out. If
        there are no results, all defined metrics are 0.

    Raises:
        ValueError: a result has an unknown image or category; or masks are compared, and a result
            or an annotation has no mask.
    """
    found = results_for(results, kind)
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
    # loadRes needs at least one result.
    return make_coco({**ground_truth.dataset, "annotations": []})


def _check_known(results: list[dict[str, Any]], key: str, known: dict[int, Any]) -> None:
    if unknown := {result[key] for result in results} - known.keys():
        raise ValueError(
            f"results must have the {key} of an annotated image or category, got these unknown "
            f"ones: {sorted(unknown)[:5]}"
        )


def _check_masks(ground_truth: COCO) -> None:
    annotations = ground_truth.dataset["annotations"]
    if lacking := sum("segmentation" not in annotation for annotation in annotations):
        raise ValueError(
            f"ground_truth must have masks for kind 'segm', got {lacking} of {len(annotations)} "
            "annotations without a mask"
        )
