import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.nms import nms
from tests.compilation import jit

run = jit(nms)
# Few counts, to limit compilation: below, at and above the size of a tile, and several tiles.
COUNTS = st.sampled_from([1, 6, 256, 257, 600])


def loop(boxes, scores, threshold, valid):
    """The plain quadratic loop, in float32."""
    boxes, threshold = np.asarray(boxes, np.float32), np.float32(threshold)
    keys = np.where(np.isnan(scores), -np.inf, scores)
    order = sorted(range(len(boxes)), key=lambda i: (-keys[i], np.isnan(scores[i]), i))
    kept = []
    for i in order:
        if not valid[i]:
            continue
        x1, y1, x2, y2 = boxes[i]
        others = boxes[kept]
        width = np.minimum(others[:, 2], x2) - np.maximum(others[:, 0], x1)
        height = np.minimum(others[:, 3], y2) - np.maximum(others[:, 1], y1)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        own = max(x2 - x1, np.float32(0)) * max(y2 - y1, np.float32(0))
        their = np.maximum(others[:, 2] - others[:, 0], 0) * np.maximum(
            others[:, 3] - others[:, 1], 0
        )
        union = own + their - shared
        iou = np.where(union > 0, shared / np.where(union > 0, union, 1), 0)
        if not (iou > threshold).any():
            kept.append(i)
    keep = np.zeros(len(boxes), bool)
    keep[kept] = True
    return keep


def draw(seed, count):
    """Boxes with multiples of 1/4, for which float32 and comparisons are exact.

    Many boxes overlap, a few are equal or empty, and many scores are tied.
    """
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 160, (count, 2)) / 4
    sides = rng.integers(-2, 120, (count, 2)) / 4
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    copies = rng.random(count) < 0.2
    boxes[copies] = boxes[rng.integers(0, count, copies.sum())]
    scores = (rng.integers(-20, 20, count) / 20).astype(np.float32)
    return boxes, scores, rng.random(count) < 0.8


@given(st.integers(0, 2**32), COUNTS, st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0]))
def test_kept_boxes_agree_with_the_loop(seed, count, threshold):
    boxes, scores, valid = draw(seed, count)
    np.testing.assert_array_equal(
        run(boxes, scores, threshold, valid), loop(boxes, scores, threshold, valid)
    )
    everywhere = np.ones(count, bool)
    np.testing.assert_array_equal(
        run(boxes, scores, threshold), loop(boxes, scores, threshold, everywhere)
    )


def test_boxes_with_arbitrary_coordinates():
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 1000, (1500, 2)), rng.uniform(10, 300, (1500, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    scores = rng.random(1500).astype(np.float32)
    for threshold in (0.3, 0.7):
        expected = loop(boxes, scores, threshold, np.ones(1500, bool))
        assert 1 < expected.sum() < 1500
        np.testing.assert_array_equal(run(boxes, scores, threshold), expected)


@pytest.mark.parametrize("descending", [True, False])
def test_in_a_long_chain_every_second_box_is_kept(descending):
    """Each box suppresses only its neighbour, within a tile and across tiles."""
    count = 600
    left = np.arange(count) * 4
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1).astype(np.float32)
    scores = np.linspace(1, 0, count, dtype=np.float32)
    if not descending:
        boxes, scores = boxes[::-1], scores[::-1]
    keep = np.asarray(run(boxes, scores, 0.4))  # IoUs are 6 / 14 and 2 / 18
    ranked = keep if descending else keep[::-1]
    np.testing.assert_array_equal(ranked, np.arange(count) % 2 == 0)


def test_of_equal_boxes_and_scores_the_first_is_kept():
    boxes = np.tile(np.float32([1, 1, 5, 5]), (600, 1))
    np.testing.assert_array_equal(run(boxes, np.ones(600, np.float32), 0.5), np.arange(600) == 0)


def test_a_box_at_the_threshold_is_kept():
    boxes = np.float32([[0, 0, 4, 4], [0, 0, 4, 2]])
    scores = np.float32([1, 0.5])
    assert run(boxes, scores, 0.5).tolist() == [True, True]
    assert run(boxes, scores, 0.499).tolist() == [True, False]


def test_empty_boxes_suppress_nothing():
    boxes = np.float32([[3, 3, 3, 3], [3, 3, 3, 3], [5, 5, 2, 2], [0, 0, 9, 9]])
    assert run(boxes, np.arange(4, dtype=np.float32), 0.0).all()


def test_invalid_boxes_are_not_kept_and_suppress_nothing():
    boxes, scores, _ = draw(3, 300)
    assert not run(boxes, scores, 0.5, np.zeros(300, bool)).any()
    assert run(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.5).shape == (0,)
    # An invalid box with the highest score suppresses nothing.
    pair, valid = np.tile(boxes[:1], (2, 1)), np.array([False, True])
    assert run(pair, np.float32([2, 1]), 0.5, valid).tolist() == [False, True]


def test_nan_ranks_below_all_numbers():
    boxes = np.tile(np.float32([1, 1, 5, 5]), (4, 1))
    scores = np.float32([np.nan, -np.inf, np.nan, -np.inf])
    assert run(boxes, scores, 0.5).tolist() == [False, True, False, False]


def test_under_vmap_the_same_boxes_are_kept():
    drawn = [draw(seed, 300) for seed in range(6)]
    boxes, scores, valid = (np.stack(parts) for parts in zip(*drawn, strict=True))
    valid[2] = False
    keep = jit(jax.vmap(nms, in_axes=(0, 0, None, 0)))(boxes, scores, 0.3, valid)
    for index in range(6):
        expected = loop(boxes[index], scores[index], 0.3, valid[index])
        np.testing.assert_array_equal(keep[index], expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 5), (3,)), r"boxes.*\(3, 5\)"),
        (((3, 4), (2,)), r"scores.*\(2,\)"),
        (((3, 4), (3,), (4,)), r"valid.* 3 .*\(4,\)"),
    ],
)
def test_bad_shapes(shapes, message):
    boxes, scores, *valid = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        nms(boxes, scores, 0.5, *(v.astype(bool) for v in valid))
