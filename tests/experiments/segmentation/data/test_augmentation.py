import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.segmentation.data.augmentation import (
    Distortion,
    distorted,
    draw_distortion,
    random_crop,
)
from experiments.segmentation.data.config import DataConfig
from tests.experiments.segmentation.fake_label_maps import noise, random_label

# Images whose shorter side is 32 are not scaled.
UNSCALED = DataConfig(augmentation="crop", crop_side=16, crop_shorter=32, crop_scales=(1.0, 1.0))


def crops(image, label, config, count, seed=0):
    rng = np.random.default_rng(seed)
    return [random_crop(Image.fromarray(image), label, rng, config) for _ in range(count)]


def test_a_crop_is_the_same_part_of_image_and_label_map_and_every_corner_can_be_drawn():
    height, width, side = 32, 40, 28
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    label = (rows * 7 + columns * 3) % 31
    config = DataConfig(
        augmentation="crop", crop_side=side, crop_shorter=32, crop_scales=(1.0, 1.0)
    )
    corners = set()
    for crop, crop_label in crops(image, label, config, 600):
        top, left = crop[0, 0, :2].tolist()
        corners.add((top, left))
        part = (slice(top, top + side), slice(left, left + side))
        np.testing.assert_array_equal(crop, image[part])
        np.testing.assert_array_equal(crop_label, label[part])
    assert corners == {(top, left) for top in range(5) for left in range(13)}


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    lowest=st.floats(0.3, 1.0),
    seed=st.integers(0, 99),
)
def test_a_crop_has_the_side_of_the_config_or_of_a_smaller_scaled_image(
    height, width, lowest, seed
):
    config = DataConfig(
        augmentation="crop", crop_side=24, crop_shorter=24, crop_scales=(lowest, lowest + 1)
    )
    label = random_label(height, width, classes=4, seed=seed)
    ((crop, crop_label),) = crops(noise(height, width, seed), label, config, 1, seed)
    assert crop.shape == (*crop_label.shape, 3)
    for length, found in zip((height, width), crop_label.shape, strict=True):
        scales = [
            min(24 * factor / min(height, width), 96 * factor / max(height, width))
            for factor in config.crop_scales
        ]
        low, high = (max(1, int(length * scale + 0.5)) for scale in scales)
        assert min(low, 24) <= found <= min(high, 24)
    assert set(np.unique(crop_label)) <= set(np.unique(label))


def test_scales_are_uniform_and_image_and_label_map_are_scaled_in_the_same_way():
    # The right half is white and of class 1.
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 255
    label = (image[..., 0] == 255).astype(np.uint8)
    config = DataConfig(augmentation="crop", crop_side=99, crop_shorter=40, crop_scales=(0.5, 2.0))
    sides = []
    for crop, crop_label in crops(image, label, config, 400):
        sides.append(len(crop))
        # The border is a ramp whose middle is at half the side.
        assert (np.abs((crop[..., 0] >= 128).sum(1) - crop_label.sum(1, dtype=int)) <= 1).all()
    assert min(sides) < 24
    assert max(sides) > 76
    assert abs(np.mean(sides) - 50) < 3


def largest_share(label):
    counts = [np.sum(label == number) for number in range(255)]
    return max(counts) / max(sum(counts), 1)


def half_varied():
    """A label map of 32 x 96 pixels: one class on the left, two classes in turn on the right."""
    label = np.zeros((32, 96), np.uint8)
    label[:, 48:] = 1 + np.arange(48) % 2
    return label


def test_no_class_has_more_than_its_share():
    image, label = noise(32, 96), half_varied()
    found = [largest_share(crop) for _, crop in crops(image, label, UNSCALED, 200)]
    assert max(found) <= 0.75
    everything = DataConfig(
        augmentation="crop", crop_side=16, crop_shorter=32, crop_scales=(1.0, 1.0), crop_share=1.0
    )
    found = [largest_share(crop) for _, crop in crops(image, label, everything, 200)]
    assert np.mean([share > 0.75 for share in found]) > 0.3


def test_pixels_without_class_do_not_count_and_a_crop_needs_a_class():
    label = half_varied()
    label[:, :48] = 255
    for _, crop in crops(noise(32, 96), label, UNSCALED, 200):
        assert (crop != 255).any()
    # A single labelled class has the share 1, even in a corner.
    label = np.full((32, 96), 255, np.uint8)
    label[:, 90:] = 4
    label[:, 60:70] = np.arange(10) % 2
    found = [largest_share(crop) for _, crop in crops(noise(32, 96), label, UNSCALED, 300)]
    assert np.mean([share <= 0.75 for share in found]) > 0.9


def test_a_share_equal_to_the_limit_is_allowed():
    label = np.zeros((32, 64), np.uint8)
    label[:, 1::2] = 1
    config = DataConfig(
        augmentation="crop", crop_side=16, crop_shorter=32, crop_scales=(1.0, 1.0), crop_share=0.5
    )
    # If the first crop is accepted, it is the crop of a config that accepts everything.
    accepting = DataConfig(
        augmentation="crop", crop_side=16, crop_shorter=32, crop_scales=(1.0, 1.0), crop_share=1.0
    )
    image = noise(32, 64)
    for seed in range(20):
        (first,), (second,) = (crops(image, label, each, 1, seed) for each in (config, accepting))
        np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("value", [0, 7, 255])
def test_after_ten_attempts_a_crop_is_used_anyway(value):
    label = np.full((32, 64), value, np.uint8)
    for crop, crop_label in crops(noise(32, 64), label, UNSCALED, 3):
        assert crop.shape == (16, 16, 3)
        assert (crop_label == value).all()


def test_ten_crops_are_rejected_at_most():
    class Counted(np.ndarray):
        """A label map that counts its reads of rows."""

        reads = 0

        def __getitem__(self, item):
            Counted.reads += 1
            return np.asarray(super().__getitem__(item))

    label = np.zeros((32, 64), np.uint8).view(Counted)
    random_crop(Image.fromarray(noise(32, 64)), label, np.random.default_rng(0), UNSCALED)
    assert Counted.reads == 11


def test_crops_depend_on_the_seed_only():
    image, label = noise(50, 70), random_label(50, 70, classes=3)
    config = DataConfig(augmentation="crop", crop_side=24, crop_shorter=24)
    first, second, other = (crops(image, label, config, 4, seed) for seed in (1, 1, 2))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])
    assert any(one[0].tolist() != two[0].tolist() for one, two in zip(first, other, strict=True))


def test_the_default_distortion_changes_nothing():
    image = noise(40, 50)
    np.testing.assert_array_equal(distorted(image, Distortion()), image)
    np.testing.assert_array_equal(distorted(image, Distortion(contrast_last=True)), image)


def slow_distorted(colour, distortion):
    """Distorts one colour in float64; only the limits of the range are kept after each change."""

    def limited(values):
        return [min(max(value, 0.0), 255.0) for value in values]

    values = limited([value + distortion.brightness for value in map(float, colour)])
    if not distortion.contrast_last:
        values = limited([value * distortion.contrast for value in values])
    hue, saturation, value = colorsys.rgb_to_hsv(*(each / 255 for each in values))
    hue = (hue + distortion.hue / 360) % 1
    saturation = min(saturation * distortion.saturation, 1)
    values = [each * 255 for each in colorsys.hsv_to_rgb(hue, saturation, value)]
    if distortion.contrast_last:
        values = limited([value * distortion.contrast for value in values])
    return values


@pytest.mark.parametrize(
    ("distortion", "tolerance"),
    [
        (Distortion(brightness=20.5), 1),
        (Distortion(brightness=-31), 1),
        (Distortion(contrast=1.4), 1),
        (Distortion(contrast=0.6, contrast_last=True), 1),
        (Distortion(brightness=30, contrast=0.5), 2),
        # Hues of 8 bits are 1.4 degrees apart, which changes a channel by up to 6.
        (Distortion(saturation=0.5), 9),
        (Distortion(saturation=1.5), 9),
        (Distortion(hue=36), 9),
        (Distortion(hue=-36), 9),
        (Distortion(10, 1.3, True, 1.2, -20), 14),
        (Distortion(-10, 1.3, False, 0.8, 20), 14),
    ],
)
def test_distorted_colours_are_those_of_a_slow_computation(distortion, tolerance):
    image = noise(16, 16, seed=3)
    found = distorted(image, distortion)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    expected = [slow_distorted(colour, distortion) for colour in image.reshape(-1, 3)]
    difference = found.reshape(-1, 3) - np.array(expected)
    assert np.abs(difference).max() <= tolerance
    assert np.abs(difference).mean() <= 2.5


def test_values_are_limited_to_bytes():
    image = np.array([[[0, 128, 255]]], np.uint8)
    assert distorted(image, Distortion(brightness=32)).tolist() == [[[32, 160, 255]]]
    assert distorted(image, Distortion(brightness=-32)).tolist() == [[[0, 96, 223]]]
    assert distorted(image, Distortion(contrast=1.5)).tolist() == [[[0, 192, 255]]]


def test_the_hue_wraps_around():
    red = np.array([[[255, 0, 0]]], np.uint8)
    forwards, backwards = (distorted(red, Distortion(hue=hue))[0, 0] for hue in (36, -36))
    np.testing.assert_allclose(forwards, [255, 153, 0], atol=6)
    np.testing.assert_allclose(backwards, [255, 0, 153], atol=6)
    one_step = distorted(red, Distortion(hue=-360 / 255))[0, 0]
    np.testing.assert_allclose(one_step, [255, 0, 6], atol=1)
    purple_red = np.array([[[255, 0, 40]]], np.uint8)
    np.testing.assert_allclose(
        distorted(purple_red, Distortion(hue=36))[0, 0], [255, 113, 0], atol=9
    )


def test_greys_have_no_hue_or_saturation_to_change():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=-1)
    found = distorted(grey, Distortion(saturation=1.5, hue=30))
    np.testing.assert_array_equal(found, grey)


def test_the_order_of_the_changes():
    # Brightness comes before the contrast: (250 + 32, limited to 255) * 0.5.
    pale = np.array([[[250, 250, 250]]], np.uint8)
    assert distorted(pale, Distortion(brightness=32, contrast=0.5)).tolist() == [[[127] * 3]]
    # A contrast that limits a channel changes the hue, so it matters whether it comes last.
    orange = np.array([[[200, 150, 20]]], np.uint8)
    first = distorted(orange, Distortion(contrast=1.5, saturation=0.5))
    last = distorted(orange, Distortion(contrast=1.5, saturation=0.5, contrast_last=True))
    np.testing.assert_allclose(first[0, 0], [255, 240, 142], atol=4)
    np.testing.assert_allclose(last[0, 0], [255, 255, 165], atol=4)


def test_draws_have_the_ranges_and_probabilities_of_mmseg():
    rng = np.random.default_rng(0)
    drawn = [draw_distortion(rng) for _ in range(4000)]
    neutral = Distortion()
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -36, 36),
    ):
        values = np.array([getattr(each, name) for each in drawn])
        changed = values != getattr(neutral, name)
        assert abs(changed.mean() - 0.5) < 0.04
        values, width = values[changed], high - low
        assert low <= values.min() < low + width / 50
        assert high - width / 50 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < width / 50
        assert abs(np.std(values) - width / np.sqrt(12)) < width / 50
    last = np.array([each.contrast_last for each in drawn])
    assert abs(last.mean() - 0.5) < 0.04
    # The draws are independent: one in 16 changes nothing.
    unchanged = [(d.brightness, d.contrast, d.saturation, d.hue) == (0, 1, 1, 0) for d in drawn]
    assert 0.04 < np.mean(unchanged) < 0.085
