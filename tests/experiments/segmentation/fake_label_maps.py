"""Datasets of images with label maps in memory, in the format of `experiments.data.label_maps`."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.data.label_maps import LabelMaps


def encode(pixels, image_format="PNG", **options):
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, image_format, **options)
    return encoded.getvalue()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_label(height, width, classes, seed=0, unlabelled=0.1):
    """Random classes, and 255 for about the share ``unlabelled`` of the pixels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, classes, (height, width), dtype=np.uint8)
    label[rng.random(label.shape) < unlabelled] = 255
    return label


def make_record(number, pixels, label, **encoding):
    """A record with an image ``[H, W, 3]`` or ``[H, W]`` and a label map ``[H, W]``."""
    height, width = label.shape
    assert pixels.shape[:2] == label.shape
    return {
        "image": encode(pixels, **encoding),
        "label": encode(label),
        "height": height,
        "width": width,
        "file_name": f"{number:08}.jpg",
        "scene": "",
    }


def make_label_maps(train, validation=(), classes=5):
    """A dataset whose splits are lists of records."""
    records = {"train": list(train), "validation": list(validation)}
    sizes = {
        split: np.array([(each["height"], each["width"]) for each in of_split], np.int32)
        for split, of_split in records.items()
    }
    names = tuple(f"class {number}" for number in range(classes))
    return LabelMaps(
        folder=Path("in memory"),
        train=records["train"],
        validation=records["validation"],
        sizes={split: found.reshape(-1, 2) for split, found in sizes.items()},
        class_names=names,
        unlabelled_images=dict.fromkeys(records, 0),
    )
