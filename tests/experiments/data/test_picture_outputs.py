import numpy as np
import pytest
from PIL import Image, ImageCms

from experiments.data.picture_outputs import PictureOutputs
from experiments.engine.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_pixels_and_profile_are_written_as_png(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    outputs, picture = PictureOutputs([]), tmp_path / "a.jpg"
    outputs.write(picture, tmp_path / "new/a.png", PIXELS)
    outputs.write(picture, tmp_path / "new/b.png", PIXELS, profile)
    with Image.open(tmp_path / "new/a.png") as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert "icc_profile" not in image.info
    with Image.open(tmp_path / "new/b.png") as image:
        assert image.info["icc_profile"] == profile
    np.testing.assert_array_equal(read(tmp_path / "new/b.png"), PIXELS)


def test_indices_are_written_with_their_palette_and_come_back_unchanged(tmp_path):
    palette = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    for number, indices in enumerate([PIXELS[..., 0], PIXELS[..., 0] % 2]):
        output = tmp_path / f"{number}.png"
        PictureOutputs([]).write_indexed(tmp_path / "a.jpg", output, indices, palette)
        with Image.open(output) as image:
            assert (image.format, image.mode) == ("PNG", "P")
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[indices])
        np.testing.assert_array_equal(read(output), indices)
    outputs = PictureOutputs([tmp_path / "0.png"])
    outputs.write_indexed(tmp_path / "b.jpg", tmp_path / "1.png", indices, palette)
    for name in ("0.png", "1.png"):
        with pytest.raises(InputError, match=rf"b\.jpg.*output .*{name}"):
            outputs.write_indexed(tmp_path / "b.jpg", tmp_path / name, indices, palette)


@pytest.mark.parametrize("link", ["none", "symlink_to", "hardlink_to"])
def test_an_input_is_not_overwritten_under_any_of_its_names(tmp_path, link):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"input")
    output = picture if link == "none" else tmp_path / "link.png"
    if output != picture:
        getattr(output, link)(picture)
    outputs = PictureOutputs([tmp_path / "missing.png", picture])
    for refuse in (outputs.check, lambda *paths: outputs.write(*paths, PIXELS)):
        with pytest.raises(InputError, match=rf"{picture}.*output {output}.* input"):
            refuse(picture, output)
    assert output.read_bytes() == b"input"


def test_an_output_is_written_once_by_each_call(tmp_path):
    first, second, output = tmp_path / "a.bmp", tmp_path / "a.jpg", tmp_path / "a.png"
    outputs = PictureOutputs([])
    outputs.check(first, output)
    outputs.write(first, output, PIXELS)
    for refuse in (outputs.check, lambda *paths: outputs.write(*paths, 255 - PIXELS)):
        with pytest.raises(InputError, match=rf"{second}.*output {output}.* earlier image"):
            refuse(second, output)
    np.testing.assert_array_equal(read(output), PIXELS)
    PictureOutputs([]).write(second, output, 255 - PIXELS)
    np.testing.assert_array_equal(read(output), 255 - PIXELS)


def test_an_output_that_cannot_be_written_is_named_and_does_not_stop_others(tmp_path):
    (tmp_path / "blocked.png").mkdir()
    outputs, picture = PictureOutputs([]), tmp_path / "a.jpg"
    with pytest.raises(InputError, match=rf"{picture}.*output .*blocked\.png.* written"):
        outputs.write(picture, tmp_path / "blocked.png", PIXELS)
    outputs.write(picture, tmp_path / "free.png", PIXELS)
    assert {path.name for path in tmp_path.iterdir()} == {"blocked.png", "free.png"}
