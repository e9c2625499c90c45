"""The served page in a headless Chromium: `apt install chromium`."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.photographs import pypi_photographs
from experiments.inpainting.web.page import MAX_BYTES
from tests.experiments.inpainting.web.test_comparison import BAD_PICTURES

pytestmark = pytest.mark.web

ROOT = Path(__file__).resolve().parents[4]
COFFEE = pypi_photographs()[2].path
GREYS = {"baseline": 100, "CARAFE++": 200}
PAINT = (255, 0, 170)
PATIENCE = 60_000  # milliseconds

SERVER = f"""
import sys
import numpy as np
from experiments.inpainting.web.page import ServeError, serve_models

class Grey:
    shapes_compiled = 1

    def __init__(self, value):
        self.value = np.uint8(value)

    def __call__(self, image, hole):
        return np.where(hole[..., None], self.value, image)

models = {{name: Grey(value) for name, value in {GREYS}.items()}}
try:
    serve_models(models, sys.argv[1], int(sys.argv[2]))
except ServeError as error:
    sys.exit(f"error: {{error}}")
"""


class Served(NamedTuple):
    """A page that is being served.

    Attributes:
        url: of the page.
        process: that serves it.
        temporary: the process's folder of temporary files.
        errors: a file of what the process says on stderr.
    """

    url: str
    process: subprocess.Popen
    temporary: Path
    errors: Path

    @property
    def port(self):
        return urlsplit(self.url).port

    def files(self):
        return [path for path in self.temporary.rglob("*") if path.is_file()]


def start(folder, host, port, **options):
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT}/kernels",
        "TMPDIR": str(folder),
        # Nothing of a Gradio's surroundings counts.
        "GRADIO_TEMP_DIR": "",
    }
    command = [sys.executable, "-c", SERVER, host, str(port)]
    return subprocess.Popen(command, env=environment, text=True, **options)


@contextlib.contextmanager
def serving(folder, host="127.0.0.1"):
    temporary, errors = folder / "temporary", folder / "errors.txt"
    temporary.mkdir()
    with (
        errors.open("w") as file,
        start(temporary, host, 0, stdout=subprocess.PIPE, stderr=file) as process,
    ):
        patience = threading.Timer(180, process.kill)
        patience.start()
        try:
            line = process.stdout.readline()
            assert line.endswith(" (ctrl-C to stop)\n"), errors.read_text()
            patience.cancel()
            yield Served(line.split()[0], process, temporary, errors)
        finally:
            patience.cancel()
            process.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable, "these tests need Chromium: apt install chromium"
    with sync_playwright() as playwright:
        # The sandbox refuses to run as root, which is who runs tests in a container.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_page(browser, url):
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    return page


@pytest.fixture
def page(browser, server):
    page = open_page(browser, server.url)
    yield page
    page.close()


def drop(page, content, name="picture.png"):
    page.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )


def paint(page):
    """Drags the brush through the middle of the picture, until the editor is ready to show it."""
    page.locator("#hole canvas").first.wait_for()
    box = page.locator("#hole canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for _ in range(30):
        page.mouse.move(x - 50, y)
        page.mouse.down()
        page.mouse.move(x + 50, y + 20, steps=10)
        page.mouse.up()
        page.wait_for_timeout(1000)
        with Image.open(io.BytesIO(page.screenshot(clip=box))) as seen:
            if (np.asarray(seen.convert("RGB")) == PAINT).all(axis=-1).sum() > 500:
                return
    pytest.fail("no stroke was seen on the picture")
