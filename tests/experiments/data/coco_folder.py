"""A small folder in COCO's layout, with one annotation of each kind."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from experiments.data.coco_tfds import CocoConfig

CONFIG = CocoConfig(
    name="small", train="train", validation="val", test="test-dev", test_images="test"
)

CATEGORIES = [{"id": 90, "name": "brush"}, {"id": 2, "name": "cup"}, {"id": 17, "name": "cat"}]
SIZES = {11: (40, 60), 12: (50, 30), 13: (40, 60), 21: (40, 60), 22: (30, 20), 31: (24, 24)}
FORMATS = {12: "png"}


def file_name(image_id):
    return f"{image_id:012}.{FORMATS.get(image_id, 'jpg')}"


def annotation(number, image_id, **fields):
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 17,
        "bbox": [1.1, 2.2, 10.3, 12.7],
        "area": 65.43,
        "iscrowd": 0,
        "segmentation": [[1.1, 2.2, 11.4, 2.2, 11.4, 14.9]],
        **fields,
    }


def contents():
    """Returns the JSON of both splits."""
    height, width = SIZES[12]
    mask = np.zeros((height, width), np.uint8, order="F")
    mask[3:20, 4:9] = 1
    encoded = rle.encode(mask)
    counts = {"size": [height, width], "counts": [203, 17, 1280]}
    compressed = {"size": [height, width], "counts": encoded["counts"].decode()}
    train = [
        annotation(903, 11),
        annotation(
            7,
            11,
            category_id=2,
            segmentation=[[1, 1, 9, 1, 9, 8], [20.5, 20, 30, 20, 30, 39.9, 21, 30]],
        ),
        annotation(8, 12, iscrowd=1, category_id=90, segmentation=counts),
        annotation(9, 12, segmentation=compressed, area=85),
        annotation(10, 12, bbox=[5, 5, 0, 4], area=0, segmentation=[]),
        annotation(11, 12, bbox=[-50.5, 60, 20, 10]),
    ]
    validation = [annotation(1, 22, category_id=90, bbox=[0.1, 0.2, 0.3, 0.7])]
    return {
        "train": content([13, 12, 11], train),
        "val": content([22, 21], validation),
    }


def content(image_ids, annotations):
    images = [
        {"id": n, "file_name": file_name(n), "height": SIZES[n][0], "width": SIZES[n][1]}
        for n in image_ids
    ]
    return {
        "images": images,
        "categories": [dict(each) for each in CATEGORIES],
        "annotations": annotations,
    }


def write_folder(folder, splits):
    """Writes JSON and images of ``splits``, as :func:`contents` gives them."""
    (folder / "annotations").mkdir(parents=True)
    for split, split_content in splits.items():
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(split_content))
        write_images(folder / split, [image["id"] for image in split_content["images"]])
    return folder


def write_images(folder, image_ids):
    folder.mkdir()
    for image_id in image_ids:
        rng = np.random.default_rng(image_id)
        pixels = rng.integers(256, size=(*SIZES[image_id], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / file_name(image_id))
