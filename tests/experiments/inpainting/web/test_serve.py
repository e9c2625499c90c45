import asyncio
import io
import os
import signal
import sys
import tempfile
import time
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data.photographs import pypi_photographs
from experiments.data.pictures import PictureError
from experiments.inpainting.prediction.inpainter import InputError
from experiments.inpainting.web import serve
from experiments.inpainting.web.comparison import Comparison, preview
from experiments.inpainting.web.gate import Gate

COFFEE = pypi_photographs()[2].path  # 600x400


def paint_grey(value):
    return lambda image, hole: np.where(hole[..., None], np.uint8(value), image)


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


def test_the_first_fill_of_a_size_is_timed_without_compilation(monkeypatch, tmp_path):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    compiled = set()

    def fill(image, hole):
        clock[0] += 1 if hole.shape in compiled else 31
        compiled.add(hole.shape)
        return image

    models = Comparison({"only": fill})
    for number, size in enumerate(((40, 30), (30, 40))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", size).save(path)
        first, second = (models.fill(path, painted(size, (0, 0, 5, 5)))["only"] for _ in range(2))
        assert (first.seconds, first.compile_seconds) == (1, 30)
        assert (second.seconds, second.compile_seconds) == (1, 0)


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
        (COFFEE, painted((400, 600), (0, 0, 9, 9)), "expected|600x400, got 400x600"),
        (COFFEE, b"no picture", "the painted hole cannot be read"),
        (COFFEE, bomb(), "painted hole .* pixels"),
    ],
)
def test_holes_that_cannot_be_filled_are_refused(picture, layer, message):
    with pytest.raises((PictureError, InputError), match=message):
        Comparison({"only": paint_grey(0)}).fill(picture, layer)


def ask(method, path, headers=(), body=b"", max_bytes=10):
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
    gate = Gate(app, {"GET": "/|/file=/.*", "POST": "/upload"}, max_bytes)
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
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_loopback_is_told_from_other_addresses(host, inside):
    assert serve.is_loopback(host) is inside


def test_gradio_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(serve.ServeError, match=r'pip install "carafe-jax\[web\]"'):
        serve.serve(Path("none"), Path("none"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_page_has_its_own_folder_and_settings_until_it_is_stopped(
    monkeypatch, capsys, number, host
):
    seen = {}

    class Blocks:
        def close(self, verbose):
            seen["closed"] = True

    def launch(blocks, host, port):
        seen.update(folder=Path(tempfile.gettempdir()), environment=dict(os.environ))
        (seen["folder"] / "upload").write_text("a picture")
        os.kill(os.getpid(), number)
        return f"http://{host}:{port}/"

    page = types.SimpleNamespace(build=lambda comparison: Blocks(), launch=launch)
    monkeypatch.setitem(sys.modules, "experiments.inpainting.web.page", page)
    monkeypatch.setattr(serve, "find_spec", lambda name: name)
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    before, folder_before = dict(os.environ), tempfile.gettempdir()
    serve.serve_models({}, host, 7860)

    assert seen["closed"]
    assert seen["environment"]["GRADIO_TEMP_DIR"] == str(seen["folder"])
    assert seen["environment"]["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert "GRADIO_ALLOWED_PATHS" not in seen["environment"]
    assert not seen["folder"].exists()
    assert dict(os.environ) == before
    assert tempfile.gettempdir() == folder_before
    told = capsys.readouterr()
    assert told.out == f"http://{host}:7860/ (ctrl-C to stop)\n"
    assert ("warning" in told.err) is (host == "0.0.0.0")
