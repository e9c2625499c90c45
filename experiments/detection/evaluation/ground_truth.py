"""Annotations for pycocotools, read from the records of a dataset."""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from pycocotools.coco import COCO

from experiments.data.coco_annotations import Category
from experiments.data.records import RecordError, Source, read_record


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The annotations of a dataset.

    Attributes:
        coco: annotations in pycocotools' format.
        image_ids: image id of each record; -1 for records that cannot be read.
        category_ids: COCO's category id of each label.
    """

    coco: COCO
    image_ids: Int64[np.ndarray, " records"]
    category_ids: Int64[np.ndarray, " classes"]

    @property
    def has_objects(self) -> bool:
        """Whether there is any object to find; if not, no metric is defined."""
        return any(not annotation["iscrowd"] for annotation in self.coco.anns.values())

    @property
    def without_masks(self) -> int:
        """The number of objects without a mask."""
        return sum("segmentation" not in annotation for annotation in self.coco.anns.values())


def read_ground_truth(source: Source, categories: Sequence[Category]) -> GroundTruth:
    """Reads the annotations of all records.

    As in COCO's own evaluation, every image counts. An image that does not decode has no
    detections, so its objects are missed. Only a record that cannot be read at all is left out,
    because its annotations are unknown.

    Args:
        source: records in the format of :mod:`experiments.data.coco`.
        categories: categories, indexed by label.

    Returns:
        Annotations with new ids, which start at 1: pycocotools counts a detected object with id 0
        as missed. Boxes, areas and crowds are as in the records.

    Raises:
        ValueError: two records have the same ``image_id``.
    """
    image_ids = np.full(len(source), -1, np.int64)
    category_ids = np.array([category.id for category in categories], np.int64)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(len(source)):
        try:
            record = read_record(source, number)
        except RecordError:
            continue
        image_ids[number] = record["image_id"]
        images.append(
            {
                "id": int(record["image_id"]),
                "file_name": record["file_name"],
                "height": int(record["height"]),
                "width": int(record["width"]),
            }
        )
        for annotation in _annotations(record, category_ids):
            annotations.append({"id": len(annotations) + 1, **annotation})
    _check_unique(image_ids)
    names = [{"id": category.id, "name": category.name} for category in categories]
    dataset = {"images": images, "annotations": annotations, "categories": names}
    return GroundTruth(make_coco(dataset), image_ids, category_ids)


def make_coco(dataset: dict[str, Any]) -> COCO:
    """Makes a pycocotools object of a dataset in COCO's JSON format, without printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
    return coco


def _annotations(
    record: Mapping[str, Any], category_ids: Int64[np.ndarray, " classes"]
) -> list[dict[str, Any]]:
    objects = record["objects"]
    found = []
    for number, label in enumerate(objects["label"]):
        annotation = {
            "image_id": int(record["image_id"]),
            "category_id": int(category_ids[label]),
            "bbox": np.asarray(objects["bbox"][number], np.float64).tolist(),
            "area": float(objects["area"][number]),
            "iscrowd": int(objects["is_crowd"][number]),
        }
        if counts := objects["segmentation"][number]:
            size = [int(record["height"]), int(record["width"])]
            annotation["segmentation"] = {"size": size, "counts": counts}
        found.append(annotation)
    return found


def _check_unique(image_ids: Int64[np.ndarray, " records"]) -> None:
    known, counts = np.unique(image_ids[image_ids >= 0], return_counts=True)
    if (counts > 1).any():
        repeated = known[counts > 1][:5].tolist()
        raise ValueError(f"image_id must be unique, got more than one record of {repeated}")
