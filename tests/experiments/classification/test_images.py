import io
import math

import numpy as np
import pytest
from PIL import Image

from experiments.classification.data_config import DataConfig
from experiments.classification.images import (
    decode_image,
    evaluation_crop,
    random_resized_box,
    training_crop,
)
from experiments.data.composed.photographs import pypi_photographs
from experiments.data.records import RecordError
from experiments.engine.config import ConfigError


@pytest.fixture(scope="module")
def photograph():
    with Image.open(pypi_photographs()[2].path) as image:
        return image.convert("RGB")


def encode(image, **options):
    encoded = io.BytesIO()
    image.save(encoded, **{"format": "jpeg", "quality": 95, **options})
    return encoded.getvalue()


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("L", {}),
        ("CMYK", {}),
        ("RGB", {"format": "png"}),
        ("RGB", {"progressive": True}),
    ],
)
def test_all_formats_of_imagenet_become_rgb(photograph, mode, options):
    image = decode_image(encode(photograph.convert(mode), **options))
    assert image.mode == "RGB"
    expected = photograph.convert("L").convert("RGB") if mode == "L" else photograph
    difference = np.abs(np.asarray(image).astype(int) - np.asarray(expected))
    assert difference.mean() < 4


def test_the_exif_orientation_is_ignored(photograph):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees
    assert decode_image(encode(photograph, exif=exif)).size == photograph.size


@pytest.mark.parametrize("format_", ["jpeg", "png"])
@pytest.mark.parametrize("length", [0, 20, 2000, -2000, -100])
def test_truncated_images_are_unreadable_records(photograph, format_, length):
    encoded = encode(photograph, format=format_)[:length]
    with pytest.raises(RecordError, match=f" {len(encoded)} bytes"):
        decode_image(encoded)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(224, 256), (224, 232), (56, 64), (64, 64), (75, 79)])
@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (301, 300), (90, 400), (91, 64), (256, 256)]
)
def test_the_evaluation_crop_scales_the_image_and_cuts_the_centre(
    photograph, size, sides, interpolation
):
    image = photograph.resize(size)
    side, shorter = sides
    config = DataConfig(image_side=side, eval_resize=shorter, interpolation=interpolation)
    filter_ = Image.Resampling.BICUBIC if interpolation == "bicubic" else Image.Resampling.BILINEAR
    width, height = size
    if width <= height:
        scaled = image.resize((shorter, int(shorter * height / width)), filter_)
    else:
        scaled = image.resize((int(shorter * width / height), shorter), filter_)
    left, top = (round((n - side) / 2.0) for n in scaled.size)
    expected = np.asarray(scaled.crop((left, top, left + side, top + side)))
    found = evaluation_crop(image, config)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 900)])
def test_the_evaluation_crop_of_a_line_is_its_middle(size):
    """Scaling the whole of the longest image would need 77 GB."""
    image = Image.new("RGB", size)
    left, top = (max(0, side // 2 - 5) for side in size)
    image.paste((255, 255, 255), (left, top, left + 10, top + 10))
    crop = evaluation_crop(image, DataConfig())
    assert crop.shape == (224, 224, 3)
    assert (crop == 255).all()


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "1"])
def test_the_evaluation_crop_takes_any_mode(photograph, mode):
    crop = evaluation_crop(photograph.convert(mode), DataConfig(image_side=32, eval_resize=32))
    assert crop.shape == (32, 32, 3)


def test_random_boxes_lie_inside_with_the_areas_and_aspects_of_the_paper():
    rng = np.random.default_rng(0)
    boxes = np.array([random_resized_box(rng, 500, 400, 0.08) for _ in range(4000)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 500).all()
    assert (bottom <= 400).all()
    width, height = right - left, bottom - top
    aspect, area = width / height, width * height / 200_000
    assert 0.74 < aspect.min() < 0.77
    assert 1.31 < aspect.max() < 1.35
    assert 0.079 < area.min() < 0.085
    # Areas near 1 fit only a few aspects near 5/4. Below 0.6 all fit, so areas are uniform.
    assert 0.9 < area.max() <= 1
    small = area[area < 0.6]
    assert np.quantile(small, [0.25, 0.5, 0.75]) == pytest.approx([0.21, 0.34, 0.47], abs=0.02)
    # All corners that fit have the same probability.
    room = width < 450
    assert (left[room] / (500 - width[room])).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 1), (0, 0, 1, 1))],
)
def test_if_no_random_box_fits_the_largest_central_one_is_used(size, expected):
    assert random_resized_box(np.random.default_rng(0), *size, 0.9) == expected


@pytest.mark.parametrize(
    ("interpolation", "other"), [("bilinear", "bicubic"), ("bicubic", "bilinear")]
)
def test_the_training_crop_shows_the_box_that_was_drawn(photograph, interpolation, other):
    config = DataConfig(
        image_side=40, eval_resize=40, smallest_area=0.5, flip=False, interpolation=interpolation
    )
    box = random_resized_box(np.random.default_rng(3), *photograph.size, 0.5)
    found = training_crop(photograph, np.random.default_rng(3), config).astype(int)
    # The margins differ, because the filter may read pixels outside the box.
    inner, wrong = (
        np.abs(found - np.asarray(photograph.crop(box).resize((40, 40), filter_)))[4:-4, 4:-4]
        for filter_ in (Image.Resampling[name.upper()] for name in (interpolation, other))
    )
    assert inner.max() <= 1
    assert wrong.mean() > 1


def test_half_of_the_crops_are_mirrored(photograph):
    plain, flipping = (
        DataConfig(image_side=8, eval_resize=8, smallest_area=1, flip=flip)
        for flip in (False, True)
    )
    square = photograph.crop((0, 0, 300, 300))
    expected = training_crop(square, np.random.default_rng(0), plain)
    rng = np.random.default_rng(0)
    mirrored = 0
    for _ in range(200):
        crop = training_crop(square, rng, flipping)
        if (crop == expected).all():
            continue
        np.testing.assert_array_equal(crop, expected[:, ::-1])
        mirrored += 1
    assert 70 < mirrored < 130


def test_pad_crop_moves_the_evaluation_crop_over_black():
    values = np.arange(1, 33 * 3 * 32 + 1).reshape(32, 33, 3) % 255 + 1
    image = Image.fromarray(values.astype(np.uint8))
    config = DataConfig("digits", 32, 32, "pad_crop", flip=False)
    padded = np.pad(evaluation_crop(image, config), ((4, 4), (4, 4), (0, 0)))
    places = {
        padded[top : top + 32, left : left + 32].tobytes(): (top, left)
        for top in range(9)
        for left in range(9)
    }
    rng = np.random.default_rng(0)
    found = {places[training_crop(image, rng, config).tobytes()] for _ in range(1000)}
    assert len(found) == 81


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_side": 0}, "image_side.* 0"),
        ({"image_side": 257}, "eval_resize.*257.* 256"),
        ({"smallest_area": 0.0}, r"smallest_area.* 0\.0"),
        ({"smallest_area": 1.5}, r"smallest_area.* 1\.5"),
        ({"smallest_area": math.nan}, "smallest_area.* nan"),
    ],
)
def test_configs_without_possible_crops_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**options)
