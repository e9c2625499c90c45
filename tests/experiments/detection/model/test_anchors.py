import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.anchors import AnchorConfig, pyramid_anchors
from experiments.detection.model.boxes import area
from experiments.engine.config import ConfigError


def test_anchors_by_hand():
    config = AnchorConfig(scale=2, ratios=(1.0, 4.0), strides=(4,))
    (anchors,) = pyramid_anchors([(2, 2)], config)
    square, tall = np.array([-4, -4, 4, 4]), np.array([-2, -8, 2, 8])
    expected = [
        centre + shape
        for centre in ([0, 0, 0, 0], [4, 0, 4, 0], [0, 4, 0, 4], [4, 4, 4, 4])
        for shape in (square, tall)
    ]
    np.testing.assert_array_equal(anchors, expected)
    assert anchors.dtype == np.float32


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=3),
    st.sampled_from([(0.5, 1.0, 2.0), (1.0,)]),
    st.sampled_from([4.0, 8.0]),
)
def test_all_anchors_have_the_right_position_and_size(shapes, ratios, scale):
    strides = tuple(4 * 2**level for level in range(len(shapes)))
    levels = pyramid_anchors(shapes, AnchorConfig(scale, ratios, strides))
    for anchors, (height, width), stride in zip(levels, shapes, strides, strict=True):
        assert anchors.shape == (height * width * len(ratios), 4)
        expected = []
        for i in range(height):
            for j in range(width):
                for ratio in ratios:
                    w, h = scale * stride / math.sqrt(ratio), scale * stride * math.sqrt(ratio)
                    x, y = j * stride, i * stride
                    expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        expected = np.reshape(expected, (-1, 4))
        np.testing.assert_allclose(anchors, expected, rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(area(anchors), (scale * stride) ** 2, rtol=1e-5)


def test_the_number_of_anchors_in_the_paper():
    shapes = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    anchors = pyramid_anchors(shapes, AnchorConfig())
    assert sum(map(len, anchors)) == 3 * sum(h * w for h, w in shapes)
    np.testing.assert_allclose(anchors[4][1], [-256, -256, 256, 256])


def test_rounded_anchors_have_whole_pixels():
    """A square of 5 pixels has the corners -2.5 and 2.5, which are rounded to even."""
    config = AnchorConfig(scale=1.25, ratios=(1.0, 0.5), strides=(4,), rounded=True)
    (anchors,) = pyramid_anchors([(2, 1)], config)
    # With the ratio 0.5 the sides are 7.07 and 3.54.
    around, below = np.array([[-2, -2, 2, 2], [-4, -2, 4, 2]]), np.array([0, 4, 0, 4])
    np.testing.assert_array_equal(anchors, np.concatenate([around, around + below]))


def test_measured_strides_are_the_distances_between_the_pixels_of_a_map():
    """Rows are 800 // 13 = 61 pixels apart, columns 1344 // 21 = 64."""
    config = AnchorConfig(strides=(32, 64), measured_strides=True)
    fine, coarse = pyramid_anchors([(25, 42), (13, 21)], config, (800, 1344))
    np.testing.assert_array_equal(fine, pyramid_anchors([(25, 42)], AnchorConfig(strides=(32,)))[0])
    centres = coarse.reshape(13, 21, 3, 2, 2).mean(axis=3)
    expected = np.mgrid[:13, :21][::-1].transpose(1, 2, 0)[:, :, None] * [64, 61]
    np.testing.assert_allclose(centres, np.broadcast_to(expected, centres.shape), atol=1e-4)
    np.testing.assert_allclose(coarse[1], [-256, -256, 256, 256])  # of the nominal stride


def test_measured_strides_need_the_size_of_the_input():
    with pytest.raises(ValueError, match=r"input_size.* None$"):
        pyramid_anchors([(2, 2)], AnchorConfig(strides=(4,), measured_strides=True))


@pytest.mark.parametrize(
    ("fields", "name"),
    [({"scale": 0}, "scale"), ({"ratios": ()}, "ratios"), ({"ratios": (1.0, -1.0)}, "ratios"),
     ({"strides": (0,)}, "strides")],
)  # fmt: skip
def test_bad_config(fields, name):
    with pytest.raises(ConfigError, match=name):
        AnchorConfig(**fields)


def test_a_level_without_a_stride_is_refused():
    with pytest.raises(ValueError, match=r"shapes.*\[\(2, 2\)\]"):
        pyramid_anchors([(2, 2)], AnchorConfig())
