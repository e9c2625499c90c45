"""The losses of a detector in slow loops, in float64."""

import numpy as np

from tests.experiments.detection.losses.batches import (
    ANCHORS,
    EVERY_ANCHOR,
    EVERY_ROI,
    MASK,
    PARTS,
    SIDE,
)
from tests.experiments.detection.model.shallow import CLASSES


def area(boxes):
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def shared(a, b):
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    return np.prod(np.maximum(high - low, 0), axis=-1)


def ratio(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)


def assign(examples, usable, objects, config):
    """Which examples are positive and negative, and their objects. Needs at least one object."""
    boxes, labels, crowd = objects
    both = shared(examples, boxes)
    overlap = ratio(both, area(examples)[:, None] + area(boxes)[None] - both)
    overlap[:, (labels < 0) | crowd] = -1
    overlap[~usable] = -1
    best = overlap.max(axis=1)
    positive = best >= config.positive_iou
    if config.best_for_each:
        highest = overlap.max(axis=0)
        positive |= ((overlap == highest) & (highest > 0)).any(axis=1)
    covered = ratio(both, area(examples)[:, None] + 0 * both)[:, crowd & (labels >= 0)]
    crowded = (covered > 0.7).any(axis=1)
    negative = ~positive & (best < config.negative_iou) & ~crowded
    return positive & usable, negative & usable, overlap.argmax(axis=1)


def encode(boxes, references, weights):
    def parts(x):
        return (x[..., :2] + x[..., 2:]) / 2, np.maximum(x[..., 2:] - x[..., :2], 0.01)

    (centre, sides), (from_centre, from_sides) = parts(boxes), parts(references)
    code = [(centre - from_centre) / from_sides, np.log(sides / from_sides)]
    return np.concatenate(code, axis=-1) * weights


def smooth_l1(x, beta):
    x = np.abs(x)
    return np.where(x < beta, x**2 / (2 * beta), x - beta / 2).sum(axis=-1)


def cross_entropy(logits, target):
    """Binary cross entropy of logits."""
    return np.logaddexp(0, logits) - target * logits


def crop(mask, box, roi):
    """The mask of an object resampled to a region's grid, bin by bin."""
    found = np.zeros((MASK, MASK))
    for i in range(MASK):
        for j in range(MASK):
            x = roi[0] + (j + 0.5) / MASK * (roi[2] - roi[0])
            y = roi[1] + (i + 0.5) / MASK * (roi[3] - roi[1])
            if not (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
                continue
            column = np.clip((x - box[0]) / (box[2] - box[0]) * SIDE - 0.5, 0, SIDE - 1)
            row = np.clip((y - box[1]) / (box[3] - box[1]) * SIDE - 0.5, 0, SIDE - 1)
            weights = [np.maximum(1 - np.abs(at - np.arange(SIDE)), 0) for at in (row, column)]
            found[i, j] = weights[0] @ mask @ weights[1] >= 0.5
    return found


def rpn_losses(found, image, objects, positive, negative, matched):
    number = max((positive | negative).sum(), 1)
    entropy = cross_entropy(found["logits"][image], positive)
    target = encode(objects[0][matched], ANCHORS, np.ones(4))
    distance = smooth_l1(found["deltas"][image] - target, 1 / 9)
    return {
        "rpn_objectness": entropy[positive | negative].sum() / number,
        "rpn_boxes": distance[positive].sum() / number,
    }


def head_losses(found, image, objects, masks, chosen, masked):
    """The heads' losses of RoIs ``(candidate, object or None)``, and of the masks ``masked``."""
    boxes, labels, _ = objects
    classes = of_boxes = of_masks = 0.0
    for index, owner in chosen:
        logits = found["class_logits"][image, index]
        label = CLASSES if owner is None else labels[owner]
        classes += np.logaddexp.reduce(logits) - logits[label]
        if owner is None:
            continue
        roi = found["boxes"][image, index]
        target = encode(boxes[owner], roi, np.array([10, 10, 5, 5]))
        of_boxes += smooth_l1(found["box_deltas"][image, index, label] - target, 1.0)
        if index in masked:
            target = crop(masks[owner], boxes[owner], roi)
            of_masks += cross_entropy(found["masks"][image, index, label], target).mean()
    number = max(len(chosen), 1)
    return {
        "classes": classes / number,
        "boxes": of_boxes / number,
        "masks": of_masks / max(len(masked), 1),
        "positives": sum(owner is not None for _, owner in chosen),
    }


def objects_of(batch, image):
    return batch["boxes"][image].astype(float), batch["labels"][image], batch["crowd"][image]


def inside(batch, image):
    height, width = batch["size"][image]
    x1, y1, x2, y2 = ANCHORS.T
    return (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)


def expected_losses(found, batch):
    """All terms of a batch's loss if every example is sampled, in float64."""
    total = dict.fromkeys((*PARTS, "positives"), 0.0)
    for image in range(2):
        objects = objects_of(batch, image)
        roles = assign(ANCHORS, inside(batch, image), objects, EVERY_ANCHOR)
        parts = rpn_losses(found, image, objects, *roles)
        single = (objects[1] >= 0) & ~objects[2]
        usable = np.concatenate([found["valid"][image], single])
        positive, negative, matched = assign(found["boxes"][image], usable, objects, EVERY_ROI)
        chosen = [(i, matched[i]) for i in np.flatnonzero(positive)]
        masked = {index for index, _ in chosen}
        chosen += [(i, None) for i in np.flatnonzero(negative)]
        parts |= head_losses(found, image, objects, batch["masks"][image], chosen, masked)
        for name, value in parts.items():
            total[name] += value
    return total
