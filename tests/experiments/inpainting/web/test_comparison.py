import functools
import io
import struct
import time
import tracemalloc
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.photographs import pypi_photographs
from experiments.engine.errors import InputError
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.fill import make_generator
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.prediction.inpainter import Inpainter
from experiments.inpainting.web.comparison import fill_with_each, preview
from tests.experiments.data.picture_files import halves, with_orientation

COFFEE = pypi_photographs()[2].path  # 600x400


class Model:
    """A model that fills by a function, and counts its calls."""

    def __init__(self, fill, shapes_compiled=lambda: 0):
        self._fill = fill
        self._shapes_compiled = shapes_compiled
        self.fills = 0

    @property
    def shapes_compiled(self):
        return self._shapes_compiled()

    def __call__(self, image, hole):
        self.fills += 1
        return self._fill(image, hole)


def paint_grey(value):
    return Model(lambda image, hole: np.where(hole[..., None], np.uint8(value), image))


def painted(size, box=(0, 0, 0, 0), alpha=255):
    """The painted layer: opaque in ``box``, transparent outside it."""
    layer = Image.new("RGBA", size)
    layer.paste((255, 0, 170, alpha), box)
    return layer


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **{"format": "png", **options})
    return file.getvalue()


def test_models_fill_only_the_painted_pixels():
    models = {"baseline": paint_grey(100), "CARAFE++": paint_grey(200)}
    # Even the softest edge of the brush counts as painted.
    results = fill_with_each(models, COFFEE, painted((600, 400), (30, 40, 130, 90), alpha=1))
    assert list(results) == ["baseline", "CARAFE++"]
    with Image.open(COFFEE) as image:
        expected = np.array(image)
    for result, value in zip(results.values(), (100, 200), strict=True):
        expected[40:90, 30:130] = value
        np.testing.assert_array_equal(result.image, expected)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((600, 400), (600, 400)), ((1536, 768), (768, 384)), ((2000, 3), (768, 1)), ((1, 1), (1, 1))],
)
def test_pictures_are_shown_in_a_size_that_fits_the_page(tmp_path, size, shown):
    Image.new("RGB", size).save(tmp_path / "picture.png")
    assert preview(tmp_path / "picture.png").size == shown


def test_a_hole_is_scaled_up_with_the_picture(tmp_path):
    Image.new("RGB", (1536, 1024)).save(tmp_path / "picture.png")
    models = {"only": paint_grey(9)}
    result = fill_with_each(models, tmp_path / "picture.png", painted((768, 512), (10, 20, 30, 50)))
    rows, columns = np.nonzero(result["only"].image[..., 0])
    assert (rows.min(), rows.max()) == (40, 99)
    assert (columns.min(), columns.max()) == (20, 59)
    assert len(rows) == 60 * 40


def test_the_time_of_compilation_is_separate_from_the_fill(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    compiled = set()

    def fill(image, hole):
        clock[0] += 1 if hole.shape in compiled else 31
        compiled.add(hole.shape)
        return image

    models = {"only": Model(fill, lambda: len(compiled))}
    for number, size in enumerate(((40, 30), (30, 40))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size).save(path)
        first, second = (
            fill_with_each(models, path, painted(size, (0, 0, 5, 5)))["only"] for _ in range(2)
        )
        assert (first.seconds, first.compile_seconds) == (1, 30)
        assert (second.seconds, second.compile_seconds) == (1, 0)


def test_a_picture_is_filled_twice_only_if_the_network_was_compiled_for_it(tmp_path):
    config = InpaintingConfig(model=GeneratorConfig(width=2, levels=1, norm="none"))
    shapes = (jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32) for channels in (3, 1))
    draw = functools.partial(make_generator(config).lazy_init, jax.random.key(0, impl="rbg"))
    inpainter = Inpainter(config, draw(*shapes))
    model = Model(inpainter, lambda: inpainter.shapes_compiled)
    models = {"only": model}
    for side, fills in ((60, 2), (61, 1), (62, 1), (63, 1), (130, 2)):
        path = tmp_path / f"{side}.png"
        Image.new("RGB", (side, side)).save(path)
        model.fills = 0
        result = fill_with_each(models, path, painted((side, side), (0, 0, 5, 5)))["only"]
        assert model.fills == fills
        assert (result.compile_seconds > 0) is (fills == 2)


def bomb():
    """A tiny PNG file whose header declares 2.5 billion pixels."""
    header = bytearray(encoded(Image.new("1", (1, 1))))
    header[16:24] = (50_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    return bytes(header)


BAD_PICTURES = {
    "16,000,000 pixels": bomb(),
    "frames": encoded(
        Image.new("L", (9, 9)),
        format="gif",
        save_all=True,
        append_images=[Image.new("L", (9, 9), 1)],
    ),
    "picture .*truncated": COFFEE.read_bytes()[:9000],
    "opaque": encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 254))),
    "the picture cannot be read: no picture of a known format": b"no picture",
}


def see_through(mode, alpha):
    """A picture of 9x9 pixels in which one pixel has this alpha."""
    image = Image.new("RGBA", (9, 9), (1, 2, 3, 255))
    image.putpixel((4, 4), (1, 2, 3, alpha))
    if mode == "P":
        # Colour 1 of the palette is transparent; it is used only if the pixel is transparent.
        image = Image.new("P", (9, 9))
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.putpixel((4, 4), int(alpha < 255))
        return encoded(image, transparency=1)
    return encoded(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_picture_may_have_transparency_that_it_does_not_use(tmp_path, mode):
    path = tmp_path / "picture.png"
    path.write_bytes(see_through(mode, 255))
    assert preview(path).mode == "RGB"
    path.write_bytes(see_through(mode, 0))
    with pytest.raises(InputError, match="opaque"):
        preview(path)


def test_a_picture_with_broken_metadata_is_shown_turned(tmp_path):
    beyond = (0x010F, 2, 1000, struct.pack("<I", 5000))
    exif = b"Exif\0\0" + with_orientation(6, beyond)
    halves().save(tmp_path / "a.png", exif=exif)
    assert preview(tmp_path / "a.png").size == (32, 64)


def test_checking_that_a_picture_is_opaque_makes_no_copy(tmp_path):
    Image.new("RGBA", (1000, 1000), (1, 2, 3, 255)).save(tmp_path / "picture.png")
    preview(tmp_path / "picture.png")
    tracemalloc.start()  # of Python and NumPy, but not of Pillow's own images
    try:
        preview(tmp_path / "picture.png")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("message", BAD_PICTURES)
def test_pictures_that_cannot_be_filled_are_refused(tmp_path, message):
    path = tmp_path / "picture.png"
    path.write_bytes(BAD_PICTURES[message])
    with pytest.raises(InputError, match=message):
        preview(path)
    with pytest.raises(InputError, match=message):
        fill_with_each({}, path, painted((9, 9), (0, 0, 1, 1)))


@pytest.mark.parametrize(
    ("picture", "layer", "message"),
    [
        (None, painted((600, 400), (0, 0, 9, 9)), "no picture yet"),
        (COFFEE, None, "no hole: paint"),
        (COFFEE, painted((600, 400)), "no hole"),
        (COFFEE, painted((600, 400), (0, 0, 600, 400)), "all hole"),
        (
            COFFEE,
            painted((400, 600), (0, 0, 9, 9)),
            "painted hole.*600x400.*400x600",
        ),
    ],
)
def test_holes_that_cannot_be_filled_are_refused(picture, layer, message):
    with pytest.raises(InputError, match=message):
        fill_with_each({"only": paint_grey(0)}, picture, layer)
