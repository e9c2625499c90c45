import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.data.shapes import (
    Bucket,
    bucket_of,
    bucket_shape,
    crop_source_size,
    evaluation_shapes,
    evaluation_size,
    evaluation_sizes,
    training_shapes,
    training_size,
)

DEFAULT = DataConfig()

lengths = st.integers(1, 4000)
configs = st.builds(
    lambda sides, more, aspects: DataConfig(
        shorter_sides=tuple(sorted(sides)),
        longer=max(*sides, 450) + more,
        aspects=tuple(sorted(aspects)),
    ),
    st.sets(st.integers(1, 700), min_size=1, max_size=4),
    st.integers(0, 900),
    st.sets(st.floats(1, 6), min_size=1, max_size=3),
)


def by_mmcv(height, width, shorter, longer):
    factor = min(longer / max(height, width), shorter / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def all_training_sizes(height, width, config):
    """For each shorter side: the shape, and the size of the image in it."""
    bucket = bucket_of(height, width, config)
    for side in config.shorter_sides:
        shape = bucket_shape(bucket, side, config)
        yield side, shape, training_size(height, width, side, shape, config)


def test_the_default_config_has_28_shapes():
    landscape = {
        (320, 416): 300,
        (320, 608): 300,
        (320, 1216): 300,
        (384, 512): 375,
        (384, 768): 375,
        (384, 1216): 375,
        (480, 608): 450,
        (480, 928): 450,
        (480, 1216): 450,
        (544, 704): 525,
        (544, 1056): 525,
        (544, 1216): 525,
        (608, 800): 600,
        (608, 1216): 600,  # of the aspect ratios 2 and 4
    }
    expected = {*landscape, *((longer, shorter) for shorter, longer in landscape)}
    shapes = training_shapes(DEFAULT)
    assert len(shapes) == 28
    assert shapes == tuple(sorted(expected))


def test_equal_shapes_are_listed_once():
    config = DataConfig(shorter_sides=(20, 32), longer=450, aspects=(1.0, 1.5))
    assert training_shapes(config) == ((32, 32), (32, 64), (64, 32))


def test_the_view_crop_has_one_shape():
    config = DataConfig(augmentation="crop", crop_side=473)
    assert training_shapes(config) == ((473, 473),)


@pytest.mark.parametrize(
    ("size", "aspect"),
    [
        ((480, 640), 4 / 3),
        ((640, 480), 4 / 3),
        ((500, 500), 4 / 3),
        ((512, 683), 4 / 3),  # 1.334; 800 x 600 after rounding
        ((683, 512), 4 / 3),
        ((427, 640), 2.0),
        ((500, 1000), 2.0),
        ((100, 201), 2.0),
        ((256, 640), 4.0),
        ((100, 400), 4.0),
        ((1, 5000), 4.0),
    ],
)
def test_an_image_has_the_first_bucket_into_which_it_fits(size, aspect):
    assert bucket_of(*size, DEFAULT) == Bucket(size[0] > size[1], aspect)


@pytest.mark.parametrize(
    ("size", "side", "resized"),
    [
        ((480, 640), 300, (300, 400)),
        ((640, 480), 450, (600, 450)),
        ((512, 683), 600, (600, 800)),
        ((427, 640), 525, (525, 787)),
        ((200, 600), 450, (400, 1200)),  # limited by the longer side
        ((1, 5000), 600, (1, 1200)),
        ((5000, 1), 300, (1200, 1)),
        ((100, 400), 300, (300, 1200)),
        ((100, 500), 300, (240, 1200)),  # of a greater aspect ratio than the last
    ],
)
def test_training_sizes_by_hand(size, side, resized):
    found = {side: resized for side, _, resized in all_training_sizes(*size, DEFAULT)}
    assert found[side] == resized


def test_an_image_of_a_greater_aspect_ratio_than_the_last_is_scaled_down_to_fit():
    config = DataConfig(aspects=(4 / 3,))
    sizes = {side: (shape, size) for side, shape, size in all_training_sizes(100, 400, config)}
    assert sizes[300] == ((320, 416), (104, 416))
    assert sizes[600] == ((608, 800), (200, 800))


@settings(max_examples=2000)
@given(height=lengths, width=lengths)
def test_every_image_fits_into_one_of_the_listed_shapes(height, width):
    shapes = training_shapes(DEFAULT)
    for side, shape, size in all_training_sizes(height, width, DEFAULT):
        assert shape in shapes
        assert (shape[0] > shape[1]) == (height > width)
        assert all(1 <= length <= limit for length, limit in zip(size, shape, strict=True))
        assert size == by_mmcv(height, width, side, 1200)


@settings(max_examples=500)
@given(height=lengths, width=lengths, config=configs)
def test_images_fit_with_any_config_and_are_scaled_down_only_beyond_the_last_aspect_ratio(
    height, width, config
):
    shapes = training_shapes(config)
    aspect = max(height, width) / min(height, width)
    for side, shape, size in all_training_sizes(height, width, config):
        assert shape in shapes
        assert all(length % 32 == 0 for length in shape)
        assert all(1 <= length <= limit for length, limit in zip(size, shape, strict=True))
        expected = by_mmcv(height, width, side, config.longer)
        if aspect <= config.aspects[-1]:
            assert size == expected
        assert all(length <= limit for length, limit in zip(size, expected, strict=True))


@settings(max_examples=500)
@given(height=lengths, width=lengths, config=configs)
def test_no_bucket_of_a_smaller_aspect_ratio_contains_the_image(height, width, config):
    bucket = bucket_of(height, width, config)
    aspect = max(height, width) / min(height, width)
    first = next((each for each in config.aspects if aspect <= each), config.aspects[-1])
    assert bucket.aspect <= first
    for smaller in config.aspects[: config.aspects.index(bucket.aspect)]:
        too_large = False
        for side in config.shorter_sides:
            shape = bucket_shape(Bucket(bucket.portrait, smaller), side, config)
            size = by_mmcv(height, width, side, config.longer)
            too_large |= size[0] > shape[0] or size[1] > shape[1]
        assert too_large


def slow_evaluation_size(height, width, shorter, longer):
    factor = min(shorter / min(height, width), longer / max(height, width))
    lengths = []
    for length in (height, width):
        whole = math.floor(length * factor)  # down, as in the official implementation
        lengths.append(next(multiple for multiple in range(32, 9999, 32) if multiple >= whole))
    return tuple(lengths)


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((450, 600), (480, 608)),
        ((512, 683), (480, 608)),
        ((683, 512), (608, 480)),
        ((300, 300), (480, 480)),
        ((450, 640), (480, 640)),
        ((450, 641), (480, 672)),
        ((428, 640), (480, 672)),  # 672.9 pixels
        ((100, 400), (320, 1216)),
        ((1, 5000), (32, 1216)),
    ],
)
def test_evaluation_sizes_by_hand(size, resized):
    assert evaluation_size(*size, DEFAULT) == resized


@settings(max_examples=500)
@given(height=lengths, width=lengths, scale=st.sampled_from([0.5, 0.75, 1.0, 1.25, 1.5, 1.75]))
def test_evaluation_sizes_are_the_scaled_sizes_rounded_up(height, width, scale):
    expected = slow_evaluation_size(height, width, 450 * scale, 1200 * scale)
    assert evaluation_size(height, width, DEFAULT, scale) == expected


def test_the_default_config_has_75_evaluation_sizes():
    # With the longer side 1200: any shorter side. With the shorter side 450: any longer side.
    pairs = [(shorter, 1200) for shorter in range(1, 451)]
    pairs += [(450, longer) for longer in range(450, 1201)]
    pairs += [(longer, shorter) for shorter, longer in pairs]
    shapes = evaluation_shapes(pairs, DEFAULT)
    assert len(shapes) == 75
    rng = np.random.default_rng(0)
    others = evaluation_shapes(rng.integers(1, 3000, (3000, 2)), DEFAULT)
    assert set(others) <= set(shapes)


def test_evaluation_shapes_are_distinct_ascending_tuples_over_the_scales():
    sizes = np.array([[512, 683], [683, 512], [480, 640], [450, 640]], np.int32)
    assert evaluation_shapes(sizes, DEFAULT, (1.0, 0.5)) == (
        ((480, 608), (256, 320)),
        ((480, 640), (256, 320)),
        ((608, 480), (320, 256)),
    )
    assert evaluation_sizes(450, 640, DEFAULT, (1.0, 0.5)) == ((480, 640), (256, 320))


@settings(max_examples=300)
@given(height=lengths, width=lengths, factor=st.floats(0.5, 2))
def test_the_size_before_a_crop_is_limited_by_both_sides(height, width, factor):
    size = crop_source_size(height, width, factor, DEFAULT)
    scale = min(512 * factor / min(height, width), 2048 * factor / max(height, width))
    for length, found in zip((height, width), size, strict=True):
        assert found == max(1, math.floor(length * scale + 0.5))
    assert min(size) == round(512 * factor) or max(size) == round(2048 * factor)
