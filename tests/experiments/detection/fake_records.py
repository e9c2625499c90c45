"""Records in the format of `experiments.data.coco`, without a dataset."""

import io

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def encode(pixels, image_format="PNG", **options):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, image_format, **options)
    return encoded.getvalue()


def run_lengths(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def make_record(image_id, pixels, boxes, labels=None, crowd=None, masks=None, **encoding):
    """A record with boxes x, y, width, height, and masks ``[H, W]`` or None."""
    count = len(boxes)
    height, width = pixels.shape[:2]
    masks = [None] * count if masks is None else masks
    boxes = np.array(boxes, np.float64).reshape(count, 4)
    return {
        "image": encode(pixels, **encoding),
        "image_id": image_id,
        "height": height,
        "width": width,
        "file_name": f"{image_id:012}.png",
        "objects": {
            "id": 1000 * image_id + np.arange(count),
            "bbox": boxes,
            "area": boxes[:, 2] * boxes[:, 3],
            "label": np.array(range(count) if labels is None else labels, np.int64),
            "is_crowd": np.array([False] * count if crowd is None else crowd, bool),
            "segmentation": ["" if mask is None else run_lengths(mask) for mask in masks],
        },
    }


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
