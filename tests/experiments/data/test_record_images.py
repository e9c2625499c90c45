import numpy as np
import pytest
from PIL import Image

from experiments.data.record_images import decode_image, fit_image
from experiments.data.records import RecordError
from tests.experiments.detection.fake_records import make_record, noise


def test_pixels_are_read_exactly_and_the_exif_orientation_is_ignored():
    pixels = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode_image(make_record(1, pixels, [], exif=exif))
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_grey_jpeg_becomes_rgb():
    image = decode_image(make_record(1, np.full((8, 8), 77, np.uint8), [], image_format="JPEG"))
    np.testing.assert_array_equal(np.asarray(image), np.full((8, 8, 3), 77))


def test_an_image_that_cannot_be_read_is_named(caplog):
    record = make_record(9, noise(30, 40), [])
    record["image"] = record["image"][:-500]
    with pytest.raises(RecordError, match=r"000000000009\.png"):
        decode_image(record)
    assert "000000000009.png" in caplog.text


def test_an_image_whose_size_differs_from_the_annotated_one_is_refused():
    record = {**make_record(9, noise(30, 40), []), "height": 40, "width": 30}
    with pytest.raises(RecordError, match=r"\(30, 40\).*\(40, 30\)"):
        decode_image(record)


def test_an_image_lies_in_the_top_left_corner_before_and_after_mirroring():
    image = Image.fromarray(noise(7, 9))
    plain = fit_image(image, (14, 18), (32, 64))
    mirrored = fit_image(image, (14, 18), (32, 64), flip=True)
    assert plain.shape == (32, 64, 3)
    np.testing.assert_array_equal(mirrored[:14, :18], plain[:14, :18][:, ::-1])
    for found in (plain, mirrored):
        assert not found[14:].any()
        assert not found[:, 18:].any()


def test_resizing_preserves_continuous_coordinates():
    # A ramp sampled at pixel centres stays, after resizing, the same ramp at the new centres.
    ramp = (10 * (np.arange(12) + 0.5)).round().astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (6, 12, 3)).copy())
    for width in (24, 6):
        found = fit_image(image, (6, width), (32, 32))[0, :width, 0]
        expected = 10 * (np.arange(width) + 0.5) * 12 / width
        np.testing.assert_allclose(found[2:-2], expected[2:-2], atol=1)


def test_downsampling_does_not_alias():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::4] = 252
    found = fit_image(Image.fromarray(stripes), (2, 16), (32, 32))[:2, :16]
    np.testing.assert_allclose(found[:, 1:-1], 63, atol=20)
