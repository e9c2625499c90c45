import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from experiments.data.pictures import open_picture, to_rgb, visible_files
from experiments.engine.errors import InputError
from tests.experiments.data.picture_files import encode, png, read

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "BMP", "PPM"])
def test_pixels_of_a_picture_are_read_exactly(format_):
    image = read(encode(Image.fromarray(PIXELS), format_))
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_a_picture_keeps_its_mode_and_becomes_rgb(tmp_path, mode):
    grey = Image.new("RGB", (4, 3), (200, 200, 200))
    original = grey.convert(mode, dither=Image.Dither.NONE)
    path = tmp_path / "image.tiff"
    original.save(path)
    image = open_picture(path, "image x")
    assert image.mode == mode
    expected = 255 if mode == "1" else 200
    np.testing.assert_allclose(np.asarray(to_rgb(image)).astype(int), expected, atol=4)


def test_ycbcr_becomes_rgb():
    # In memory, because Pillow below 13 cannot read the only files with this mode, TIFF.
    image = Image.new("RGB", (4, 3), (200, 100, 50)).convert("YCbCr")
    np.testing.assert_allclose(np.asarray(to_rgb(image))[0, 0].astype(int), (200, 100, 50), atol=2)


def test_a_palette_with_transparency_converts_without_a_warning():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.info["transparency"] = b"\0\xff"
    assert to_rgb(image).getpixel((0, 0)) == (9, 8, 7)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (6, -1), (3, 2), (8, 1)])
def test_the_exif_orientation_is_followed(format_, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # Halves of black and white survive compression.
    stored = np.zeros((32, 64, 3), np.uint8)
    stored[:, 40:] = 255
    image = read(encode(Image.fromarray(stored), format_, exif=exif))
    found = np.asarray(image.convert("L")) > 127
    np.testing.assert_array_equal(found, np.rot90(stored[..., 0] > 127, turns))


def test_the_exif_orientation_can_be_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read(encode(Image.fromarray(PIXELS), "PNG", exif=exif), upright=False)
    np.testing.assert_array_equal(np.asarray(image), PIXELS)


@pytest.mark.parametrize("format_", FORMATS)
def test_truncated_pictures_are_refused_wherever_they_end(format_):
    encoded = encode(Image.fromarray(PIXELS), format_)
    assert read(encoded).size == (30, 20)
    for length in [*range(0, len(encoded) - 60, 41), len(encoded) - 60]:
        with pytest.raises(InputError, match=r"^image x .*read"):
            read(encoded[:length])


@pytest.mark.parametrize("format_", FORMATS)
def test_damaged_pictures_are_read_or_refused(format_):
    encoded = encode(Image.fromarray(PIXELS), format_)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(encoded)
        damaged[rng.integers(min(200, len(damaged)))] = rng.integers(256)
        try:
            read(bytes(damaged), max_pixels=10**6)
        except InputError as error:
            assert str(error).startswith("image x ")  # noqa: PT017 - both outcomes are right


def test_files_that_are_not_pictures_are_distinguished(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(InputError, match=r"image x.* no picture"):
        open_picture(tmp_path / "text.png", "image x")
    with pytest.raises(InputError, match=r"image x.*No such file"):
        open_picture(tmp_path / "none.png", "image x")
    with pytest.raises(InputError, match=r"image x.*directory"):
        open_picture(tmp_path, "image x")


def test_postscript_is_not_passed_to_a_program():
    with pytest.raises(InputError, match=r"image x.* no picture"):
        read(encode(Image.fromarray(PIXELS), "EPS"))


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_several_frames_are_refused(format_):
    first, second = Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)
    encoded = encode(first, format_, save_all=True, append_images=[second])
    with pytest.raises(InputError, match=r"image x.* several frames"):
        read(encoded)


def test_a_photograph_with_a_gain_map_is_a_photograph():
    image = Image.fromarray(PIXELS)
    encoded = encode(image, "MPO", save_all=True, append_images=[image.resize((15, 10))])
    assert read(encoded).size == (30, 20)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_greys_are_refused(mode):
    encoded = encode(Image.new(mode, (3, 3)), "TIFF")
    with pytest.raises(InputError, match=rf"image x.* {mode}$"):
        read(encoded)


def test_deep_colours_are_refused_and_not_truncated():
    deep = png(2, 16, (b"\0" + bytes(12)) * 2)
    with pytest.raises(InputError, match=r"image x.* 16$"):
        read(deep)
    assert read(png(2, 8, (b"\0" + bytes(6)) * 2)).mode == "RGB"


def test_modes_without_rgb_are_refused():
    with pytest.raises(InputError, match=r"image x.* LAB$"):
        read(encode(Image.new("LAB", (3, 3)), "TIFF"))


@pytest.mark.parametrize("format_", FORMATS)
def test_larger_pictures_are_refused(format_):
    encoded = encode(Image.fromarray(PIXELS), format_)
    assert read(encoded, max_pixels=600).size == (30, 20)
    for limit in (599, 10):  # the limits at which Pillow would warn and raise
        with pytest.raises(InputError, match=rf"image x.* {limit} "):
            read(encoded, max_pixels=limit)


def test_the_header_is_enough_to_refuse_a_large_picture():
    header = bytearray(png(2, 8, b"")[:60])
    header[16:24] = struct.pack(">II", 20_000, 20_001)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(InputError, match=r"image x.* 400,000,000 "):
        read(bytes(header))


@pytest.mark.slow
def test_pictures_beyond_the_limit_of_pillow_are_read_without_a_warning():
    before = Image.MAX_IMAGE_PIXELS
    for format_ in ("PNG", "TIFF"):
        encoded = encode(Image.new("1", (20_000, 10_000)), format_)
        assert read(encoded).size == (20_000, 10_000)
    assert before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(encoded))


def test_warnings_of_pillow_about_metadata_are_ignored():
    # An EXIF block with one entry, whose offset is beyond its end.
    entry = struct.pack("<HHII", 0x010F, 2, 1000, 5000)
    exif = b"II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    encoded = png(2, 8, (b"\0" + bytes(6)) * 2, (b"eXIf", exif))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert read(encoded).size == (2, 2)
    assert not caught


def test_visible_files_exclude_subfolders(tmp_path):
    (tmp_path / "deeper").mkdir()
    for name in ("b.png", "a.jpg", ".hidden.png", "deeper/c.png"):
        (tmp_path / name).touch()
    assert [path.name for path in visible_files(tmp_path)] == ["a.jpg", "b.png"]
