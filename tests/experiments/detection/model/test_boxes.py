import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model import boxes as subject
from tests.compilation import jit

area, clip = jit(subject.area), jit(subject.clip)
pairwise_coverage, pairwise_iou = jit(subject.pairwise_coverage), jit(subject.pairwise_iou)
decode = jit(subject.decode, static_argnums=2)
encode = jit(subject.encode, static_argnums=2)

BOX_HEAD = (10.0, 10.0, 5.0, 5.0)
RPN = (1.0, 1.0, 1.0, 1.0)
DEGENERATE = jnp.array([[3, 4, 3, 4], [5, 5, 5, 9], [8, 8, 2, 2], [0, 0, 0, 0]], jnp.float32)


def draw(seed, count):
    """Boxes with multiples of 1/4, exact in float32; a few are empty, and a few are equal."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 80, (count, 2)) / 4
    sides = rng.integers(-2, 60, (count, 2)) / 4
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    boxes[1::5] = boxes[0]
    return boxes


def loop_area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def loop_intersection(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


@given(st.integers(0, 2**32))
def test_overlaps_agree_with_a_loop(seed):
    a, b = draw(seed, 7), draw(seed + 1, 5)
    b[2] = a[3]
    iou, coverage = np.zeros((7, 5)), np.zeros((7, 5))
    for i, x in enumerate(a.astype(float)):
        for j, y in enumerate(b.astype(float)):
            shared = loop_intersection(x, y)
            union = loop_area(x) + loop_area(y) - shared
            iou[i, j] = shared / union if union else 0
            coverage[i, j] = shared / loop_area(x) if loop_area(x) else 0
    np.testing.assert_allclose(pairwise_iou(a, b), iou, rtol=1e-6)
    np.testing.assert_allclose(pairwise_coverage(a, b), coverage, rtol=1e-6)
    np.testing.assert_array_equal(area(a), [loop_area(x) for x in a])


def test_overlaps_of_two_boxes_by_hand():
    a, b = np.float32([[0, 0, 4, 4]]), np.float32([[2, 0, 6, 6]])
    np.testing.assert_allclose(pairwise_iou(a, b), [[8 / (16 + 24 - 8)]])
    np.testing.assert_allclose(pairwise_coverage(a, b), [[0.5]])
    np.testing.assert_allclose(pairwise_coverage(b, a), [[1 / 3]])


def test_the_deltas_of_a_box_by_hand():
    reference, box = np.float32([10, 10, 20, 30]), np.float32([12, 5, 32, 25])
    # The centres are (15, 20) and (22, 15), the sides (10, 20) and (20, 20).
    np.testing.assert_allclose(encode(box, reference, RPN), [0.7, -0.25, np.log(2), 0], atol=1e-6)
    np.testing.assert_allclose(
        encode(box, reference, BOX_HEAD), [7, -2.5, 5 * np.log(2), 0], atol=1e-5
    )
    np.testing.assert_allclose(decode(np.float32([0.7, -0.25, np.log(2), 0]), reference, RPN), box)


@given(st.integers(0, 2**32), st.sampled_from([RPN, BOX_HEAD]))
def test_decoding_inverts_encoding(seed, weights):
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 800, (2, 6, 2)), rng.uniform(20, 400, (2, 6, 2))
    boxes, references = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    found = decode(encode(boxes, references, weights), references, weights)
    np.testing.assert_allclose(found, boxes, atol=2e-3)


def test_decoding_enlarges_a_box_by_a_limited_factor():
    reference = np.float32([0, 0, 16, 16])
    found = decode(np.float32([0, 0, 50, -1]), reference, RPN)
    side = 16 * np.exp(-1)
    np.testing.assert_allclose(
        found, [8 - 500, 8 - side / 2, 8 + 500, 8 + side / 2], rtol=1e-5
    )  # a width of 16 * 1000 / 16


def test_decoding_shrinks_a_box_by_a_limited_factor_on_request():
    reference, delta = np.float32([0, 0, 1000, 500]), np.float32([0, 0, -50, -50])
    found = decode(delta, reference, RPN)
    np.testing.assert_allclose(found, [500, 250, 500, 250])
    clamped = jit(functools.partial(subject.decode, weights=RPN, clamps_shrinking=True))
    np.testing.assert_allclose(clamped(delta, reference), [492, 246, 508, 254], rtol=1e-5)
    delta = np.float32([0, 0, 50, 0])
    np.testing.assert_array_equal(clamped(delta, reference), decode(delta, reference, RPN))


def test_thin_references_are_decoded_exactly():
    reference = np.float32([10, 10, 10.001, 20])
    found = decode(np.float32([1000, 0, np.log(50), 0]), reference, RPN)
    np.testing.assert_allclose(found, [10.9755, 10, 11.0255, 20], atol=1e-3)


def test_deltas_of_each_class_share_a_reference():
    deltas = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    references = draw(1, 3)
    found = decode(deltas, references[:, None], BOX_HEAD)
    for k in range(5):
        np.testing.assert_allclose(
            found[:, k], decode(deltas[:, k], references, BOX_HEAD), rtol=1e-6
        )


def test_empty_boxes_have_finite_values_and_gradients():
    boxes = jnp.array([[0, 0, 10, 10], [5, 5, 9, 9], [1, 1, 1, 1], [9, 9, 1, 1]], jnp.float32)

    def all_sums(a, b):
        found = [
            subject.pairwise_iou(a, b),
            subject.pairwise_coverage(a, b),
            subject.encode(a, b, RPN),
            subject.encode(b, a, RPN),
            subject.decode(a, b, RPN),
        ]
        return jnp.stack([values.sum() for values in found])

    assert np.isfinite(jit(all_sums)(DEGENERATE, boxes)).all()
    jacobians = jit(jax.jacrev(all_sums, (0, 1)))(DEGENERATE, boxes)
    assert all(np.isfinite(jacobian).all() for jacobian in jacobians)
    assert not pairwise_iou(DEGENERATE, boxes).any()
    assert not pairwise_coverage(DEGENERATE, boxes).any()
    assert not area(DEGENERATE).any()


@pytest.mark.parametrize("size", [(20, 30), jnp.array([20, 30])])
def test_boxes_are_clipped_to_the_image(size):
    boxes = np.float32([[-5, -6, 40, 50], [3, 4, 5, 6], [31, 2, 33, 4], [4, -9, 6, -2]])
    expected = [[0, 0, 30, 20], [3, 4, 5, 6], [30, 2, 30, 4], [4, 0, 6, 0]]
    np.testing.assert_array_equal(clip(boxes, size), expected)


def test_boxes_are_nonempty_from_a_hundredth_of_a_pixel_on():
    boxes = np.float32(
        [
            [0, 0, 0.011, 5],
            [0, 0, 0.009, 5],
            [0, 0, 5, 0.009],
            [30, 2, 30, 4],
            [5, 5, 2, 2],
            [3, 4, 5, 6],
            [3, np.nan, 5, 6],
        ]
    )
    assert subject.is_nonempty(boxes).tolist() == [True, *[False] * 4, True, False]
    assert subject.is_nonempty(boxes, 0.0).tolist() == [*[True] * 3, False, False, True, False]
    assert subject.is_nonempty(boxes, 0.01).tolist() == subject.is_nonempty(boxes).tolist()
    assert subject.is_nonempty(boxes, 3.0).tolist() == [False] * 7
    assert subject.is_nonempty(boxes, 2.0).tolist() == [*[False] * 5, True, False]
