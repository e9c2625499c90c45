import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.roi_align import assign_levels, roi_align
from tests.compilation import jit

STRIDES = (4, 8, 16)
# Odd, narrow, and with a single pixel along an axis.
SHAPES = ((9, 12), (5, 6), (1, 2))
CHANNELS = 3


def taps(position, size):
    """Pixels and weights of a point on an axis with pixel centres 0 to size - 1."""
    if position < -1 or position > size:
        return []
    position = min(max(position, 0), size - 1)
    low = math.floor(position)
    return [(low, low + 1 - position), (min(low + 1, size - 1), position - low)]


def loop(pyramid, boxes, levels, output_size, points, cotangent=None, aligned=True):
    """Values, or, if the cotangent is given, the gradients of the maps, in float64."""
    batch, regions = levels.shape
    y = np.zeros((batch, regions, output_size, output_size, pyramid[0].shape[-1]))
    gradients = [np.zeros(x.shape) for x in pyramid]
    for b, r, i, j in np.ndindex(batch, regions, output_size, output_size):
        level = levels[b, r]
        features = pyramid[level].astype(np.float64)
        x1, y1, x2, y2 = boxes[b, r].astype(np.float64) / STRIDES[level] - 0.5 * aligned
        bins = [max(side, -np.inf if aligned else 1) / output_size for side in (y2 - y1, x2 - x1)]
        rows, columns = (points or max(0, math.ceil(side)) for side in bins)
        for n, m in np.ndindex(rows, columns):
            row = y1 + (i + (n + 0.5) / rows) * bins[0]
            column = x1 + (j + (m + 0.5) / columns) * bins[1]
            for p, wp in taps(row, features.shape[1]):
                for q, wq in taps(column, features.shape[2]):
                    weight = wp * wq / (rows * columns)
                    if cotangent is None:
                        y[b, r, i, j] += weight * features[b, p, q]
                    else:
                        gradients[level][b, p, q] += weight * cotangent[b, r, i, j]
    return y if cotangent is None else gradients


def draw(seed, regions, output_size=2, grid=4):
    """Maps, and boxes on a grid: inside, across borders, outside, empty, inverted and huge.

    On the grid, positions are exact in float32, also at the distance from which points are 0.
    """
    rng = np.random.default_rng(seed)
    pyramid = [rng.normal(size=(2, *shape, CHANNELS)).astype(np.float32) for shape in SHAPES]
    corners = rng.integers(-20 * grid, 60 * grid, (2, regions, 2)) / grid
    sides = rng.integers(-4 * grid, 40 * grid, (2, regions, 2)) / grid
    sides[:, 1::4] /= 8
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    boxes[:, 0] = [-8, -8, 56, 40]
    boxes[:, -1] = 0
    levels = rng.integers(0, 3, (2, regions)).astype(np.int32)
    cotangent = rng.normal(size=(2, regions, output_size, output_size, CHANNELS))
    return pyramid, boxes, levels, cotangent.astype(np.float32)


@jit(static_argnums=(4, 5, 6))
def with_gradient(pyramid, boxes, levels, cotangent, output_size, points, aligned=True):
    y, pullback = jax.vjp(
        lambda maps: roi_align(maps, STRIDES, boxes, levels, output_size, points, aligned), pyramid
    )
    return y, *pullback(cotangent)


def align(pyramid, boxes, levels):
    return roi_align(pyramid, STRIDES, boxes, levels, 2)


run = jit(align)


def check(drawn, output_size, points, atol=2e-6, aligned=True):
    pyramid, boxes, levels, cotangent = drawn
    y, gradients = with_gradient(pyramid, boxes, levels, cotangent, output_size, points, aligned)
    values = loop(pyramid, boxes, levels, output_size, points, aligned=aligned)
    np.testing.assert_allclose(y, values, atol=atol)
    expected = loop(pyramid, boxes, levels, output_size, points, cotangent, aligned)
    for found, gradient in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(found, gradient, atol=5 * atol)


@given(st.integers(0, 2**32))
def test_values_and_gradients_agree_with_the_loop(seed):
    check(draw(seed, regions=9), 2, 2)


@pytest.mark.parametrize(("output_size", "points"), [(7, 2), (3, 1), (1, 3)])
def test_other_output_sizes_with_arbitrary_coordinates(output_size, points):
    # 22 regions in two images: the gradient takes more than one step, and the last is padded.
    check(draw(0, 11, output_size, grid=997), output_size, points, atol=2e-5)


@given(st.integers(0, 2**32))
def test_adaptive_numbers_of_points_agree_with_the_loop(seed):
    check(draw(seed, regions=9), 2, 0)


def test_adaptive_numbers_of_points_without_alignment_with_arbitrary_coordinates():
    # 34 regions in two images: more than two groups, and the last is padded.
    check(draw(0, 17, 3, grid=997), 3, 0, atol=2e-5, aligned=False)


def test_without_alignment_regions_are_shifted_and_have_at_least_one_pixel():
    check(draw(0, 9), 2, 2, aligned=False)
    x = np.mgrid[:8, :10][1][None, ..., None].astype(np.float32)
    boxes = np.float32([[[8, 12, 9, 12]]])  # a pixel of 4 from x = 2, y = 3
    align_one_point = jit(roi_align, static_argnums=(1, 4, 5, 6))
    found = align_one_point([x], (4,), boxes, np.zeros((1, 1), np.int32), 2, 1, False)
    np.testing.assert_allclose(found[0, 0, :, :, 0], [[2.25, 2.75]] * 2, rtol=1e-6)


def test_adaptive_numbers_of_points_by_hand():
    """A bin of 3 x 1.25 pixels has 3 x 2 points."""
    x, y = np.float32([0, 0, 7, 1, 0, 0, 0, 5]), np.float32([1, 0, 3, 0])
    features = (y[:, None] * x)[None, ..., None]
    boxes = np.float32([[[0.5, 0.5, 6.5, 3]]])  # from pixel 0 to 6, and from row 0 to 2.5
    align_adaptively = jit(roi_align, static_argnums=(1, 4, 5))
    found = align_adaptively([features], (1,), boxes, np.zeros((1, 1), np.int32), 2, 0)
    # Columns at 0.5, 1.5, 2.5 and 3.5, 4.5, 5.5; rows at 0.3125, 0.9375 and 1.5625, 2.1875.
    columns = np.array([(0 + 3.5 + 4) / 3, 0.5 / 3])
    rows = np.array([(0.6875 + 0.0625) / 2, (0.5625 * 3 + 0.8125 * 3) / 2])
    np.testing.assert_allclose(found[0, 0, ..., 0], rows[:, None] * columns, rtol=1e-6)


def test_long_thin_regions_of_fine_levels():
    """A bin of the first region is 46 pixels long, and a bin of the second exactly 7 pixels."""
    rng = np.random.default_rng(0)
    pyramid = [rng.normal(size=(2, 3, 330, 2)).astype(np.float32)]
    boxes = np.float32([[[3, 4, 1303, 5.5]], [[500, -3, 696, 30]]])
    levels = np.zeros((2, 1), np.int32)
    cotangent = rng.normal(size=(2, 1, 7, 7, 2)).astype(np.float32)

    def align_with_gradient(maps):
        y, pullback = jax.vjp(lambda maps: roi_align(maps, (4,), boxes, levels, 7, 0), maps)
        return y, *pullback(cotangent)

    y, (gradient,) = jit(align_with_gradient)(pyramid)
    np.testing.assert_allclose(y, loop(pyramid, boxes, levels, 7, 0), atol=1e-5)
    np.testing.assert_allclose(
        gradient, loop(pyramid, boxes, levels, 7, 0, cotangent)[0], atol=1e-5
    )


def test_a_bin_is_the_mean_of_four_points_by_default():
    pyramid, boxes, levels, cotangent = draw(0, 9)
    found = run(pyramid, boxes, levels)
    expected = with_gradient(pyramid, boxes, levels, cotangent, 2, 2)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - with_gradient(pyramid, boxes, levels, cotangent, 2, 3)[0]).max() > 0.1


def test_bins_by_hand():
    """On a map with the coordinates of pixels as values, bins are mean coordinates."""
    y, x = np.mgrid[:8, :10] + 0.5
    features = np.stack([x, y], axis=-1)[None].astype(np.float32)
    boxes = np.float32([[[8, 12, 32, 20]]])  # on the map, x from 2 to 8 and y from 3 to 5
    align_bins = jit(roi_align, static_argnums=(1, 4))
    found = align_bins([features], (4,), boxes, np.zeros((1, 1), np.int32), 2)
    np.testing.assert_allclose(found[0, 0, :, :, 0], [[3.5, 6.5], [3.5, 6.5]], rtol=1e-6)
    np.testing.assert_allclose(found[0, 0, :, :, 1], [[3.5, 3.5], [4.5, 4.5]], rtol=1e-6)


def test_a_region_reads_only_its_own_level_and_image():
    pyramid, boxes, levels, _ = draw(1, 9)
    levels[0, :3] = range(3)
    other = [np.full_like(x, np.nan) for x in pyramid]
    for level in range(3):
        maps = [pyramid[n] if n == level else other[n] for n in range(3)]
        maps = [np.stack([x[0], np.full_like(x[1], np.nan)]) for x in maps]
        found = np.asarray(run(maps, boxes, levels))
        chosen = levels == level
        chosen[1] = False
        assert chosen.any()
        assert np.isfinite(found[chosen]).all()


@pytest.mark.parametrize("points", [2, 0])
def test_boxes_that_are_not_finite_result_in_zeros(points):
    pyramid, boxes, levels, cotangent = draw(2, 9)
    boxes[0, 3], boxes[1, 4, 2] = np.nan, np.inf
    found = np.asarray(with_gradient(pyramid, boxes, levels, cotangent, 2, points)[0])
    assert not found[0, 3].any()
    assert not found[1, 4].any()
    assert np.isfinite(found).all()


def test_boxes_have_no_gradient():
    pyramid, boxes, levels, _ = draw(3, 4)
    gradient = jit(jax.grad(lambda b: align(pyramid, b, levels).sum()))(boxes)
    assert not gradient.any()


@pytest.mark.parametrize("points", [2, 0])
def test_no_regions(points):
    pyramid, boxes, levels, cotangent = draw(4, 4)
    y, gradients = with_gradient(pyramid, boxes[:, :0], levels[:, :0], cotangent[:, :0], 2, points)
    assert y.shape == (2, 0, 2, 2, CHANNELS)
    assert not any(g.any() for g in gradients)


@pytest.mark.parametrize("points", [2, 0])
def test_bfloat16_is_summed_in_float32(points):
    pyramid, boxes, levels, cotangent = draw(5, 40)
    boxes[:] = boxes[:1, :1]  # the gradients of 80 regions add to the same pixels
    levels[:] = 0
    pyramid = [x.astype(jnp.bfloat16) for x in pyramid]
    cotangent = cotangent.astype(jnp.bfloat16)
    y, gradients = with_gradient(pyramid, boxes, levels, cotangent, 2, points)
    assert y.dtype == jnp.bfloat16
    assert all(g.dtype == jnp.bfloat16 for g in gradients)
    expected = loop(pyramid, boxes, levels, 2, points)
    np.testing.assert_allclose(np.float64(y), expected, rtol=2**-8, atol=1e-6)
    expected = loop(pyramid, boxes, levels, 2, points, np.float64(cotangent))
    np.testing.assert_allclose(np.float64(gradients[0]), expected[0], rtol=2**-8, atol=1e-5)


def test_levels_follow_the_equation():
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 99, (2, 200, 2)), np.exp(rng.uniform(0, 7.5, (2, 200, 2)))
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    side = np.sqrt(np.prod(boxes[..., 2:].astype(float) - boxes[..., :2], axis=-1))
    level = np.clip(np.floor(4 + np.log2(side / 224)), 2, 5)
    np.testing.assert_array_equal(assign_levels(boxes), level - 2)
    level = np.clip(np.floor(4 + np.log2(side / 224)), 3, 4)
    np.testing.assert_array_equal(assign_levels(boxes, levels=2, finest_stride=8), level - 3)


def test_levels_begin_at_powers_of_two():
    sides = [0, 111.99, 112, 223.99, 224, 447.9, 448, 4000]
    boxes = np.float32([[0, 0, side, side] for side in sides] + [[9, 9, 0, 0]])
    assert assign_levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0]


@pytest.mark.parametrize(("side", "level"), [(112, 1), (224, 2), (448, 3)])
def test_the_level_does_not_depend_on_the_position_of_the_box(side, level):
    corners = np.random.default_rng(side).uniform(0, 1333 - side, (1000, 2))
    boxes = np.concatenate([corners, corners + side], axis=1).astype(np.float32)
    assert (np.asarray(assign_levels(boxes)) == level).all()
    boxes[:, 2] -= side / 1000
    assert (np.asarray(assign_levels(boxes)) == level - 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pyramid": []}, r"pyramid.*\[\]"),
        ({"pyramid": [np.zeros((2, 4, 4, 1)), np.zeros((2, 2, 2, 3))]}, r"pyramid.*\(2, 2, 2, 3\)"),
        ({"pyramid": [np.zeros((2, 4, 0, 1))] * 2}, r"pyramid.*\(2, 4, 0, 1\)"),
        ({"strides": (4,)}, r"strides.* 2.*\[4\]"),
        ({"boxes": np.zeros((1, 5, 4))}, r"boxes.* 2.*\(1, 5, 4\)"),
        ({"levels": np.zeros((2, 4), int)}, r"levels.*\(2, 5\).*\(2, 4\)"),
        ({"output_size": 0}, r"output_size.* 0$"),
        ({"sampling_ratio": -1}, r"sampling_ratio.* -1$"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "pyramid": [np.zeros((2, 4, 4, 1)), np.zeros((2, 2, 2, 1))],
        "strides": (4, 8),
        "boxes": np.zeros((2, 5, 4)),
        "levels": np.zeros((2, 5), int),
        "output_size": 7,
    }
    with pytest.raises(ValueError, match=message):
        roi_align(**arguments | change)
