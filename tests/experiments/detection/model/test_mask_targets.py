import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.mask_targets import crop_masks
from tests.compilation import jit

crop = jit(crop_masks, static_argnames="size")


def bilinear(mask, row, column):
    """The mask's value at a point, in bins; clamped to the outermost centres."""
    value = 0.0
    row, column = (min(max(at - 0.5, 0), len(mask) - 1) for at in (row, column))
    for n, m in np.ndindex(*mask.shape):
        value += mask[n, m] * max(1 - abs(row - n), 0) * max(1 - abs(column - m), 0)
    return value


def loop(masks, boxes, matched, rois, size):
    """Values before the threshold, in float64."""
    values = np.zeros((len(rois), size, size))
    for r, i, j in np.ndindex(values.shape):
        x1, y1, x2, y2 = rois[r].astype(float)
        left, top, right, bottom = boxes[matched[r]].astype(float)
        x, y = x1 + (j + 0.5) / size * (x2 - x1), y1 + (i + 0.5) / size * (y2 - y1)
        if left <= x <= right and top <= y <= bottom and left < right and top < bottom:
            mask = masks[matched[r]]
            row, column = (y - top) / (bottom - top), (x - left) / (right - left)
            values[r, i, j] = bilinear(mask, row * len(mask), column * len(mask))
    return values


@given(st.integers(0, 2**32))
def test_targets_agree_with_the_loop(seed):
    rng = np.random.default_rng(seed)
    masks = (rng.random((3, 6, 6)) < 0.5).astype(np.uint8)
    corners, sides = rng.uniform(0, 50, (2, 9, 2)), rng.uniform(1, 50, (2, 9, 2))
    boxes, rois = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    boxes = boxes[:3]
    rois[::2] = boxes[[0, 1, 2, 0, 1]] + rng.uniform(-3, 3, (5, 4))
    rois[1] = boxes[0]
    matched = rng.integers(0, 3, 9)
    found = crop(masks, boxes, matched, rois, size=5)
    values = loop(masks, boxes, matched, rois, 5)
    clear = np.abs(values - 0.5) > 2e-3
    np.testing.assert_array_equal(np.asarray(found)[clear], values[clear] >= 0.5)
    assert clear.mean() > 0.5
    assert set(np.unique(found)) <= {0.0, 1.0}


def test_a_region_equal_to_the_box_has_the_objects_mask():
    masks = (np.random.default_rng(0).random((2, 8, 8)) < 0.5).astype(np.uint8)
    boxes = np.float32([[4, 8, 20, 40], [0, 0, 8, 8]])
    found = crop(masks, boxes, np.array([1, 0]), boxes[::-1], size=8)
    np.testing.assert_array_equal(found, masks[::-1])


def test_targets_outside_the_box_are_0():
    masks, boxes = np.ones((1, 4, 4), np.uint8), np.float32([[10, 10, 20, 20]])
    rois = np.float32([[0, 0, 10, 10], [5, 10, 25, 20], [30, 30, 40, 40]])
    nowhere, middle, far = crop(masks, boxes, np.zeros(3, int), rois, size=4)
    assert not nowhere.any()
    assert not far.any()
    np.testing.assert_array_equal(middle, [[0, 1, 1, 0]] * 4)


def test_a_value_of_a_half_is_1():
    masks = np.full((1, 3, 3), 0.5, np.float32)
    boxes = np.float32([[0, 0, 9, 9]])
    assert crop(masks, boxes, np.zeros(1, int), boxes, size=4).all()


def test_a_value_of_a_half_is_1_at_any_position_of_the_box():
    """The region equals the box, and the edge of the mask divides bins of the region in half."""
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 1200, (50, 2)), rng.uniform(8, 100, (50, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    masks = np.zeros((50, 56, 56), np.uint8)
    masks[:25, :, :21] = 1  # columns 20 and 21 are read by column 10
    masks[25:, 21:] = 1
    found = np.asarray(crop(masks, boxes, np.arange(50), boxes))
    assert found[:25, :, :11].all()
    assert not found[:25, :, 11:].any()
    assert found[25:, 10:].all()
    assert not found[25:, :10].any()


def test_empty_boxes_and_regions_have_finite_targets():
    masks = np.ones((2, 4, 4), np.uint8)
    boxes = np.float32([[5, 5, 5, 5], [8, 8, 2, 2]])
    rois = np.float32([[0, 0, 10, 10], [5, 5, 5, 5], [0, 0, 10, 10]])
    assert not crop(masks, boxes, np.array([0, 0, 1]), rois, size=4).any()


@pytest.mark.parametrize(("side", "bound"), [(28, 0.02), (56, 0.015), (112, 0.01)])
def test_small_masks_lose_little_accuracy(side, bound):
    """The object is an ellipse, whose mask is known at every point."""
    rng = np.random.default_rng(side)
    boxes = np.float32([[10, 20, 210, 100], [3, 5, 55, 300]])
    at = (np.arange(side) + 0.5) / side * 2 - 1
    masks = np.repeat((at[:, None] ** 2 + at[None] ** 2 <= 1)[None], 2, axis=0).astype(np.uint8)
    matched = np.arange(20) % 2
    sides = (boxes[:, 2:] - boxes[:, :2])[matched]
    rois = boxes[matched] + rng.uniform(-0.2, 0.2, (20, 4)) * np.tile(sides, (1, 2))
    found = np.asarray(crop(masks, boxes, matched, rois.astype(np.float32)))
    wrong = 0
    for r, i, j in np.ndindex(found.shape):
        x = rois[r, 0] + (j + 0.5) / 28 * (rois[r, 2] - rois[r, 0])
        y = rois[r, 1] + (i + 0.5) / 28 * (rois[r, 3] - rois[r, 1])
        left, top, right, bottom = boxes[matched[r]]
        u, v = 2 * (x - left) / (right - left) - 1, 2 * (y - top) / (bottom - top) - 1
        wrong += (math.hypot(u, v) <= 1) != found[r, i, j]
    assert wrong / found.size < bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.zeros((2, 4, 5))}, r"masks.*\(2, 4, 5\)"),
        ({"boxes": np.zeros((3, 4))}, r"boxes.* 2.*\(3, 4\)"),
        ({"matched": np.zeros(4, int)}, r"matched.*rois.*\(4,\).*\(5, 4\)"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "masks": np.zeros((2, 4, 4)),
        "boxes": np.zeros((2, 4)),
        "matched": np.zeros(5, int),
        "rois": np.zeros((5, 4)),
    }
    with pytest.raises(ValueError, match=message):
        crop_masks(**arguments | change)
