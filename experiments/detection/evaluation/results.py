"""Detections in COCO's results format, in pixels of the original image."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from jaxtyping import Int

from experiments.detection.evaluation.masks import RunLengths, paste_mask
from experiments.engine.errors import InputError
from experiments.engine.files import write_atomically


class Result(TypedDict):
    """One detection, with the keys of COCO's results.

    Attributes:
        image_id: id of the image.
        category_id: COCO's id of the category; these ids may have gaps.
        bbox: left, top, width and height, in pixels of the original image and within it.
        score: score of the detection, in [0, 1].
        segmentation: mask of the object, if the detector predicts masks.
    """

    image_id: int
    category_id: int
    bbox: list[float]
    score: float
    segmentation: NotRequired[RunLengths]


def image_results(
    detections: Mapping[str, np.ndarray],
    size: Int[np.ndarray, "2"],
    original_size: Int[np.ndarray, "2"],
    image_id: int,
    category_ids: Sequence[int] | Int[np.ndarray, " classes"],
) -> list[Result]:
    """Converts the detections in one image to results.

    Args:
        detections: ``boxes`` float32 ``[D, 4]`` as x1, y1, x2, y2 in pixels of the resized image,
            ``scores`` float32 ``[D]``, ``labels`` int32 ``[D]``, ``valid`` bool ``[D]`` and, with
            masks, ``masks`` float32 ``[D, M, M]`` in [0, 1], each stretched over its box.
        size: height and width of the resized image in pixels.
        original_size: height and width of the original image in pixels.
        image_id: id of the image.
        category_ids: COCO's category id of each label.

    Returns:
        The valid detections, in their order, except those whose boxes have no area in the image.
        Each axis is scaled by its own factor, because resized sizes are rounded. Masks are pasted
        into the boxes before these are clipped to the image.

    Raises:
        InputError: a score, or the box of a valid detection, is NaN or infinite.
    """
    given = (detections["scores"], detections["boxes"][detections["valid"]])
    if not all(np.isfinite(values).all() for values in given):
        raise InputError(
            "the detector must give finite values, got NaN or infinity: its parameters are broken, "
            "or it overflows on this image"
        )
    height, width = (int(side) for side in original_size)
    scale = np.asarray(original_size, np.float64)[::-1] / np.asarray(size, np.float64)[::-1]
    boxes = detections["boxes"].astype(np.float64) * np.tile(scale, 2)  # [D, 4]
    clipped = np.clip(boxes, 0, np.tile([width, height], 2))
    in_image = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    results: list[Result] = []
    for number in np.flatnonzero(detections["valid"] & in_image):
        x1, y1, x2, y2 = clipped[number].tolist()
        result: Result = {
            "image_id": image_id,
            "category_id": int(category_ids[detections["labels"][number]]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(detections["scores"][number]),
        }
        if "masks" in detections:
            mask = detections["masks"][number]
            result["segmentation"] = paste_mask(mask, boxes[number], height, width)
        results.append(result)
    return results


def results_for(results: Sequence[Result], kind: str) -> list[dict[str, Any]]:
    """Copies results with only the keys that one kind of evaluation needs.

    A result with both a mask and a box would be wrong for pycocotools: it would compute the
    object's size, by which AP is split, from the box.

    Args:
        results: results of any images.
        kind: ``"bbox"`` or ``"segm"``.

    Returns:
        Copies without ``segmentation`` for ``"bbox"``, and without ``bbox`` for ``"segm"``.

    Raises:
        ValueError: ``kind`` is unknown; or it is ``"segm"``, and a result has no mask.
    """
    drops = {"bbox": "segmentation", "segm": "bbox"}
    if kind not in drops:
        raise ValueError(f"kind must be 'bbox' or 'segm', got {kind!r}")
    if kind == "segm" and (lacking := sum("segmentation" not in result for result in results)):
        raise ValueError(
            f"each of the results must have a segmentation for kind 'segm', got {lacking} of "
            f"{len(results)} without one"
        )
    return [
        {key: value for key, value in result.items() if key != drops[kind]} for result in results
    ]


def write_results(folder: Path, results: Sequence[Result], masks: bool) -> list[Path]:
    """Writes results in the format of COCO's evaluation server: one JSON list for each kind.

    The server takes the file of one kind, renamed ``detections_SPLIT_NAME_results.json`` and
    zipped. Entries of the box file have the keys ``image_id``, ``category_id``, ``bbox`` and
    ``score``. Entries of the mask file have ``segmentation`` in place of ``bbox``.

    Args:
        folder: folder of the files, which is created if necessary. Existing files ``bbox.json``
            and, with ``masks``, ``segm.json`` are replaced.
        results: results of any images; without results the files contain empty lists.
        masks: whether the detector predicts masks.

    Returns:
        Paths of the files.

    Raises:
        ValueError: ``masks`` is True, and a result has no mask.
        OSError: a file cannot be written.
    """
    written = []
    for kind in ("bbox", "segm") if masks else ("bbox",):
        path = folder / f"{kind}.json"
        _write_list(path, results_for(results, kind))
        written.append(path)
    return written


def _write_list(path: Path, entries: list[dict[str, Any]]) -> None:
    # No spaces: there are hundreds of thousands of entries.
    text = json.dumps(entries, separators=(",", ":"), allow_nan=False)
    write_atomically(path, lambda file: file.write(text.encode()))
