import asyncio
import functools
import io
import os
import signal
import sys
import tempfile
import time
import tracemalloc
import types
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.photographs import pypi_photographs
from experiments.data.pictures import PictureError
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.fill import make_generator
from experiments.inpainting.model.generators import GeneratorConfig
from experiments.inpainting.prediction.holes import InputError
from experiments.inpainting.prediction.inpainter import Inpainter
from experiments.inpainting.web import serve
from experiments.inpainting.web.comparison import Comparison, preview
from experiments.inpainting.web.gate import Gate
from tests.experiments.inpainting.web.served import free_port

COFFEE = pypi_photographs()[2].path  # 600x400


class Model:
    """Fills by a function, and counts how often."""

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
    """What the brush leaves: ``box`` painted, all else transparent."""
    layer = Image.new("RGBA", size)
    layer.paste((255, 0, 170, alpha), box)
    return encoded(layer)


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, **{"format": "png", **options})
    return file.getvalue()


def test_models_fill_what_is_painted_and_only_that():
    models = Comparison({"baseline": paint_grey(100), "CARAFE++": paint_grey(200)})
    # The softest edge of a brush is painted, too.
    results = models.fill(COFFEE, painted((600, 400), (30, 40, 130, 90), alpha=1))
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
def test_pictures_are_painted_on_in_a_size_that_fits_the_page(tmp_path, size, shown):
    Image.new("RGB", size).save(tmp_path / "picture.png")
    assert preview(tmp_path / "picture.png").size == shown


def test_a_hole_grows_with_the_picture(tmp_path):
    Image.new("RGB", (1536, 1024)).save(tmp_path / "picture.png")
    models = Comparison({"only": paint_grey(9)})
    result = models.fill(tmp_path / "picture.png", painted((768, 512), (10, 20, 30, 50)))
    rows, columns = np.nonzero(result["only"].image[..., 0])
    assert (rows.min(), rows.max()) == (40, 99)
    assert (columns.min(), columns.max()) == (20, 59)
    assert len(rows) == 60 * 40


def test_compilation_is_told_apart_from_the_fill(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    compiled = set()

    def fill(image, hole):
        clock[0] += 1 if hole.shape in compiled else 31
        compiled.add(hole.shape)
        return image

    models = Comparison({"only": Model(fill, lambda: len(compiled))})
    for number, size in enumerate(((40, 30), (30, 40))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size).save(path)
        first, second = (models.fill(path, painted(size, (0, 0, 5, 5)))["only"] for _ in range(2))
        assert (first.seconds, first.compile_seconds) == (1, 30)
        assert (second.seconds, second.compile_seconds) == (1, 0)


def test_a_picture_is_filled_again_only_where_the_network_was_compiled_for_it(tmp_path):
    config = InpaintingConfig(model=GeneratorConfig(width=2, levels=1, norm="none"))
    shapes = (jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.float32) for channels in (3, 1))
    draw = functools.partial(make_generator(config).lazy_init, jax.random.key(0, impl="rbg"))
    inpainter = Inpainter(config, draw(*shapes))
    model = Model(inpainter, lambda: inpainter.shapes_compiled)
    models = Comparison({"only": model})
    for side, fills in ((60, 2), (61, 1), (62, 1), (63, 1), (130, 2)):
        path = tmp_path / f"{side}.png"
        Image.new("RGB", (side, side)).save(path)
        model.fills = 0
        result = models.fill(path, painted((side, side), (0, 0, 5, 5)))["only"]
        assert model.fills == fills
        assert (result.compile_seconds > 0) is (fills == 2)


def bomb():
    """A PNG of some bytes that says it has 2.5 billion pixels."""
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
    """A picture of 9x9 pixels, one of which has this alpha."""
    image = Image.new("RGBA", (9, 9), (1, 2, 3, 255))
    image.putpixel((4, 4), (1, 2, 3, alpha))
    if mode == "P":
        # Colour 1 of the palette is the transparent one; it is used if a pixel is to be.
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
    with pytest.raises(PictureError, match="opaque"):
        preview(path)


def test_an_opaque_picture_is_found_so_without_a_copy(tmp_path):
    Image.new("RGBA", (1000, 1000), (1, 2, 3, 255)).save(tmp_path / "picture.png")
    preview(tmp_path / "picture.png")
    tracemalloc.start()  # of Python and NumPy; Pillow's own images are not seen
    try:
        preview(tmp_path / "picture.png")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("message", BAD_PICTURES)
def test_pictures_that_cannot_be_filled_are_refused(tmp_path, message):
    path = tmp_path / "picture.png"
    path.write_bytes(BAD_PICTURES[message])
    with pytest.raises(PictureError, match=message):
        preview(path)
    with pytest.raises(PictureError, match=message):
        Comparison({}).fill(path, painted((9, 9), (0, 0, 1, 1)))


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
            "^the painted hole must have the size of the picture on the page, 600x400, got "
            "400x600: drop the picture again$",
        ),
        (COFFEE, b"no picture", "the painted hole cannot be read"),
        (COFFEE, bomb(), "painted hole .* pixels"),
    ],
)
def test_holes_that_cannot_be_filled_are_refused(picture, layer, message):
    with pytest.raises((PictureError, InputError), match=message):
        Comparison({"only": paint_grey(0)}).fill(picture, layer)


def ask(method, path, headers=(), body=b"", folder=Path("none"), **options):
    """The status of a gate's answer, and how much of the body was read; status 200 is the app's."""
    sent, read = [], []

    async def app(scope, receive, send):
        read.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200})

    async def receive():
        return {"type": "http.request", "body": body}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    options = {"names": None, "max_bytes": 10, "folder": folder, "folder_bytes": 10_000} | options
    gate = Gate(app, {"GET": "/|/file=/.*", "POST": "/upload"}, **options)
    asyncio.run(gate(scope, receive, send))
    return int(sent[0]["status"]), b"".join(read)


def length(number):
    return [(b"content-length", str(number).encode())]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (("GET", "/"), 200),
        (("GET", "/file=/a"), 200),
        (("GET", "/file=http://host/a"), 404),
        (("GET", "/other"), 404),
        (("GET", "/upload"), 404),
        (("DELETE", "/"), 404),
        (("POST", "/upload", length(10)), 200),
        (("POST", "/upload", length(11)), 413),
        (("GET", "/", length(11)), 413),
        (("POST", "/upload", [(b"transfer-encoding", b"chunked")]), 411),
    ],
)
def test_the_gate_lets_through_what_the_page_needs(request_, status):
    answered, read = ask(*request_, body=b"0123456789")
    assert answered == status
    assert read == (b"0123456789" if status == 200 else b"")


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (b"127.0.0.1:80", None, 200),
        (b"LocalHost:80", b"http://localhost:80", 200),
        (b"127.0.0.1:80", b"http://localhost:80", 403),
        (b"127.0.0.1:80", b"http://127.0.0.1:81", 403),
        (b"127.0.0.1:80", b"null", 403),
        (b"127.0.0.1:80", b"http://[", 403),
        (b"127.0.0.1:81", None, 403),
        (b"127.0.0.1", None, 403),
        (b"evil.example:80", b"http://evil.example:80", 403),
        (None, None, 403),
    ],
)
def test_the_gate_refuses_other_names_and_other_pages(host, origin, status):
    headers = [
        (name, value) for name, value in ((b"host", host), (b"origin", origin)) if value is not None
    ]
    names = {"127.0.0.1:80", "localhost:80"}
    assert ask("POST", "/upload", headers, names=names)[0] == status
    # Where the names are not known, the page is still told from others.
    foreign = origin is not None and origin != b"http://" + host.lower()
    assert ask("POST", "/upload", headers)[0] == (403 if foreign else 200)


def test_the_gate_counts_what_lies_in_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/picture").write_bytes(bytes(5000))
    (tmp_path / "empty").touch()
    upload = ("POST", "/upload", length(10))
    least = 5000 + 4096 + 10
    assert ask(*upload, folder=tmp_path, folder_bytes=least)[0] == 200
    assert ask(*upload, folder=tmp_path, folder_bytes=least - 1) == (507, b"")
    assert ask("GET", "/", folder=tmp_path, folder_bytes=0)[0] == 200


def test_the_gate_counts_what_is_under_way(tmp_path):
    statuses = []

    async def app(scope, receive, send):
        if len(statuses) < 3:
            await gate(scope, receive, send)  # the next comes before this one is done
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        if "status" in message:
            statuses.append(int(message["status"]))

    gate = Gate(app, {"POST": "/upload"}, None, 10, tmp_path, 29)
    scope = {"type": "http", "method": "POST", "path": "/upload", "headers": length(10)}
    asyncio.run(gate(scope, None, send))
    assert statuses == [507, 200, 200]
    statuses[:] = [0, 0, 0]
    asyncio.run(gate(scope, None, send))
    assert statuses[3:] == [200]


def test_gradio_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(serve.ServeError, match=r'pip install --editable "\.\[web\]"$'):
        serve.serve(Path("none"), Path("none"))


def test_an_address_that_cannot_be_listened_at_is_told_before_runs_are_read(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    with pytest.raises(serve.ServeError, match=r"^port must be from 0 to 65535, got 65536$"):
        serve.serve(Path("none"), Path("none"), port=65536)


def test_a_port_taken_after_it_was_tried_is_told_in_our_words(monkeypatch):
    def launch(blocks, address):
        raise OSError("set GRADIO_SERVER_PORT")

    blocks = types.SimpleNamespace(close=lambda verbose: None)
    page = types.SimpleNamespace(build=lambda comparison: blocks, launch=launch)
    monkeypatch.setitem(sys.modules, "experiments.inpainting.web.page", page)
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    with pytest.raises(serve.ServeError, match=r"^cannot listen at host 127\.0\.0\.1, port \d+: "):
        serve.serve_models({}, "127.0.0.1", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_page_has_its_own_folder_and_settings_until_it_is_stopped(
    monkeypatch, capsys, number, host
):
    seen = {}

    class Blocks:
        def close(self, verbose):
            seen["closed"] = True

    def launch(blocks, address):
        seen.update(folder=Path(tempfile.gettempdir()), environment=dict(os.environ))
        (seen["folder"] / "upload").write_text("a picture")
        os.kill(os.getpid(), number)
        return f"http://{address.host}:{address.port}/"

    page = types.SimpleNamespace(build=lambda comparison: Blocks(), launch=launch)
    monkeypatch.setitem(sys.modules, "experiments.inpainting.web.page", page)
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    before, folder_before = dict(os.environ), tempfile.gettempdir()
    port = free_port()
    serve.serve_models({}, host, port)

    assert seen["closed"]
    assert seen["environment"]["GRADIO_TEMP_DIR"] == str(seen["folder"])
    assert seen["environment"]["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert "GRADIO_ALLOWED_PATHS" not in seen["environment"]
    assert not seen["folder"].exists()
    assert dict(os.environ) == before
    assert tempfile.gettempdir() == folder_before
    told = capsys.readouterr()
    assert told.out == f"http://{host}:{port}/ (ctrl-C to stop)\n"
    assert ("warning" in told.err) is (host == "0.0.0.0")
