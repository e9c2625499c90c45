"""Batches of images and objects, and configs with which every example is sampled."""

import numpy as np

from experiments.detection.configs import DetectionConfig
from experiments.detection.data.config import DataConfig
from experiments.detection.model.anchors import pyramid_anchors
from experiments.detection.model.sampler_config import SamplerConfig
from tests.experiments.detection.model.shallow import CLASSES, CONFIG, PROPOSALS, random_images

ROWS, SIDE, MASK = 300, 5, 4
SHAPES = [(64 // stride, 64 // stride) for stride in CONFIG.anchors.strides]
ANCHORS = np.concatenate(pyramid_anchors(SHAPES, CONFIG.anchors)).astype(np.float64)
# Large enough for every example, so that samples do not depend on the random draw.
EVERY_ANCHOR = SamplerConfig(2 * len(ANCHORS), 0.5, 0.7, 0.3, best_for_each=True)
EVERY_ROI = SamplerConfig(2 * (PROPOSALS + ROWS), 0.5, 0.5, 0.5, best_for_each=False)
PARTS = ("rpn_objectness", "rpn_boxes", "classes", "boxes", "masks")


def make_config(model, anchors=EVERY_ANCHOR, rois=EVERY_ROI):
    return DetectionConfig(
        model=model, data=DataConfig(mask_side=SIDE), anchor_sampler=anchors, proposal_sampler=rois
    )


def make_batch(*counts, crowds=0, seed=0):
    """Two images with the given numbers of objects; the first ``crowds`` objects are crowds.

    Coordinates are multiples of 1/4, for which float32 is exact, including ties.
    """
    rng = np.random.default_rng(seed)
    sizes = np.int32([[64, 64], [48, 60]])
    boxes = np.zeros((2, ROWS, 4), np.float32)
    labels = np.full((2, ROWS), -1, np.int32)
    crowd = np.zeros((2, ROWS), bool)
    masks = np.zeros((2, ROWS, SIDE, SIDE), np.uint8)
    for image, count in enumerate(counts):
        corners = rng.integers(0, 36 * 4, (count, 2)) / 4
        sides = rng.integers(1, 26 * 4, (count, 2)) / 4
        limit = sizes[image, ::-1]
        boxes[image, :count] = np.concatenate([corners, np.minimum(corners + sides, limit)], axis=1)
        labels[image, :count] = rng.integers(0, CLASSES, count)
        crowd[image, :crowds] = True
        masks[image, :count] = rng.integers(0, 2, (count, SIDE, SIDE))
    return {
        "image": random_images(seed),
        "size": sizes,
        "boxes": boxes,
        "labels": labels,
        "crowd": crowd,
        "masks": masks,
    }
