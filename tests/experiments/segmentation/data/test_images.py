from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.data.record_images import fit_image, pad_image, resize_image
from experiments.segmentation.data.images import (
    fit_label,
    nearest,
    pad_label,
)
from tests.experiments.segmentation.fake_label_maps import noise, random_label


def slow_nearest(length, resized):
    return [int((index + Fraction(1, 2)) * length / resized) for index in range(resized)]


lengths = st.integers(1, 300)


@settings(max_examples=200)
@given(length=lengths, resized=lengths)
def test_nearest_takes_the_pixel_that_contains_the_centre(length, resized):
    assert nearest(length, resized).tolist() == slow_nearest(length, resized)


@settings(max_examples=200)
@given(length=lengths, resized=lengths)
def test_nearest_is_pillows_except_for_centres_on_a_border(length, resized):
    column = np.arange(length, dtype=np.int32)[:, None]
    by_pillow = np.asarray(Image.fromarray(column).resize((1, resized), Image.Resampling.NEAREST))
    exact = (2 * np.arange(resized) + 1) * length
    on_border = exact % (2 * resized) == 0
    found = nearest(length, resized)
    np.testing.assert_array_equal(found[~on_border], by_pillow[~on_border, 0])
    assert np.abs(found - by_pillow[:, 0]).max() <= 1


@pytest.mark.parametrize("size", [(14, 18), (5, 7), (7, 9), (30, 60), (1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_label_map_is_resized_by_nearest_mirrored_and_padded(size, flip):
    label = random_label(7, 9, classes=40)
    found = fit_label(label, size, (32, 64), flip)
    rows, columns = slow_nearest(7, size[0]), slow_nearest(9, size[1])
    expected = np.full((32, 64), 255, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            column = columns[size[1] - 1 - x] if flip else columns[x]
            expected[y, x] = label[rows[y], column]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def position_pair(height, width):
    """An image and a label map that both encode each pixel's row and column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows * 16, columns * 16, np.zeros_like(rows)], axis=-1)
    return Image.fromarray(image), rows * 16 + columns


@pytest.mark.parametrize("size", [(15, 16), (45, 48), (40, 37), (9, 11), (8, 8)])
@pytest.mark.parametrize("flip", [False, True])
def test_an_image_and_its_label_map_stay_aligned(size, flip):
    image, label = position_pair(15, 16)
    pixels = fit_image(image, size, (64, 64), flip)[: size[0], : size[1]].astype(float) / 16
    found = fit_label(label, size, (64, 64), flip)[: size[0], : size[1]]
    # The nearest pixel is half a pixel away at most, and a byte has a rounding error. Reduced
    # images have a filter that is cut off at the border.
    margin = 1 if size[0] < 15 else 0
    inner = slice(margin, -margin or None)
    for channel, encoded in ((0, found // 16), (1, found % 16)):
        difference = np.abs(pixels[..., channel] - encoded)[inner, inner]
        assert difference.max() <= 0.5 + 1 / 16
    first, last = found[0, 0] % 16, found[0, -1] % 16
    assert (first > last) == flip


def test_labels_are_never_interpolated():
    label = np.where(random_label(40, 30, classes=2, unlabelled=0.3) == 1, 200, 3).astype(np.uint8)
    label[::7] = 255
    for size in ((17, 23), (80, 61), (40, 30)):
        assert set(np.unique(fit_label(label, size, (96, 96)))) == {3, 200, 255}


def test_fitted_resizes_bilinearly_to_exactly_the_size():
    pixels = noise(20, 30)
    found = resize_image(Image.fromarray(pixels), (32, 64))
    assert (found.shape, found.dtype) == ((32, 64, 3), np.uint8)
    expected = np.zeros((32, 64, 3))
    for y in range(32):
        for x in range(64):
            row = min(max((y + 0.5) * 20 / 32 - 0.5, 0), 19)
            column = min(max((x + 0.5) * 30 / 64 - 0.5, 0), 29)
            top, left = int(row), int(column)
            bottom, right = min(top + 1, 19), min(left + 1, 29)
            down, across = row - top, column - left
            upper = (1 - across) * pixels[top, left] + across * pixels[top, right]
            lower = (1 - across) * pixels[bottom, left] + across * pixels[bottom, right]
            expected[y, x] = (1 - down) * upper + down * lower
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_padding_is_black_and_without_class():
    image, label = noise(5, 7), random_label(5, 7, classes=3)
    padded, padded_classes = pad_image(image, (8, 9)), pad_label(label, (8, 9))
    np.testing.assert_array_equal(padded[:5, :7], image)
    np.testing.assert_array_equal(padded_classes[:5, :7], label)
    outside = np.ones((8, 9), bool)
    outside[:5, :7] = False
    assert not padded[outside].any()
    assert (padded_classes[outside] == 255).all()
