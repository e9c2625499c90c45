"""Records of a small annotated dataset, and detections in its images."""

import numpy as np

from experiments.data.coco_annotations import Category
from experiments.detection.evaluation.masks import encode_mask

CATEGORIES = (Category(3, "cup"), Category(17, "cat"), Category(90, "brush"))
HEIGHT, WIDTH = 60, 80


def box_mask(bbox):
    """A mask of the whole image that covers a box with integer coordinates."""
    left, top, width, height = (int(number) for number in bbox)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def record(image_id, bboxes, labels=None, crowds=None, masks=True, areas=None):
    count = len(bboxes)
    bboxes = np.array(bboxes, np.float64).reshape(count, 4)
    return {
        "image": b"no picture",
        "image_id": image_id,
        "height": HEIGHT,
        "width": WIDTH,
        "file_name": f"{image_id}.jpg",
        "objects": {
            "id": np.zeros(count, np.int64),
            "bbox": bboxes,
            "area": bboxes[:, 2] * bboxes[:, 3] if areas is None else np.array(areas, np.float64),
            "label": np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64),
            "is_crowd": np.zeros(count, bool) if crowds is None else np.array(crowds),
            "segmentation": [
                encode_mask(box_mask(bbox))["counts"] if masks else "" for bbox in bboxes
            ],
        },
    }


def result(image_id, bbox, label=0, score=0.9):
    return {
        "image_id": image_id,
        "category_id": CATEGORIES[label].id,
        "bbox": [float(number) for number in bbox],
        "score": score,
        "segmentation": encode_mask(box_mask(bbox)),
    }


def perfect_results(records):
    return [
        result(record["image_id"], bbox, label)
        for record in records
        for bbox, label in zip(
            record["objects"]["bbox"], record["objects"]["label"].tolist(), strict=True
        )
    ]
