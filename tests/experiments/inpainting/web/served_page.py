"""A served page with models that need no training, and the actions of a visitor in a browser."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.photographs import pypi_photographs

ROOT = Path(__file__).resolve().parents[4]
COFFEE = pypi_photographs()[2].path  # 600x400
GREYS = {"baseline": 100, "CARAFE++": 200}
PAINT = (255, 0, 170)
TIMEOUT = 60_000  # milliseconds

SLOW = (1, 2, 3)  # colour of the first pixel of a picture whose fill waits for a file

# Both models fill with grey, and neither while another fill is running. Their maps are those of a
# network that upsamples once, by "nearest".
SERVER = f"""
import os
import sys
import threading
import time
from pathlib import Path
import numpy as np
from experiments.inpainting.pathways import Pathways
from experiments.inpainting.prediction.inpainter import TracedImage
from experiments.inpainting.web.page import ServeError, serve_models
from experiments.resamplers.fixed_kernels import nearest_kernels
from experiments.source_maps.pathways import Pathway, map_size

running = threading.Lock()
release = Path(os.environ["GRADIO_TEMP_DIR"]).with_name("release")

class Grey:
    shapes_compiled = 1

    def __init__(self, value):
        self.value = np.uint8(value)

    def __call__(self, image, hole):
        assert running.acquire(blocking=False), "two fills at once"
        if tuple(image[0, 0]) == {SLOW}:
            while not release.exists():
                time.sleep(0.05)
        running.release()
        return np.where(hole[..., None], self.value, image)

    def trace(self, image, hole):
        steps = (nearest_kernels(map_size(hole.shape, 2)),)
        up = Pathway(
            name="", steps=steps, source_stride=2, target_stride=1, target_size=hole.shape
        )
        return TracedImage(image, hole, Pathways(None, up))

try:
    models = {{name: Grey(value) for name, value in {GREYS}.items()}}
    serve_models(models, sys.argv[1], int(sys.argv[2]))
except ServeError as error:
    sys.exit(f"error: {{error}}")
"""


class Served(NamedTuple):
    """A page that is being served.

    Attributes:
        url: URL of the page.
        process: process of the server.
        temporary: folder of the server's temporary files.
        errors: file with the server's stderr.
    """

    url: str
    process: subprocess.Popen
    temporary: Path
    errors: Path

    @property
    def release(self):
        """The file for which fills of slow pictures wait."""
        return self.temporary.with_name("release")

    def temporary_bytes(self):
        """The size of all temporary files, in bytes."""
        return sum(path.stat().st_size for path in self.temporary.rglob("*") if path.is_file())


def start(folder, host, port, variables=(), **options):
    packages = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    environment = {**os.environ, "PYTHONPATH": packages, "GRADIO_TEMP_DIR": str(folder)}
    environment |= dict(variables)
    command = [sys.executable, "-c", SERVER, host, str(port)]
    return subprocess.Popen(command, env=environment, text=True, **options)


@contextlib.contextmanager
def serving(folder, host="127.0.0.1"):
    temporary, errors = folder / "temporary", folder / "errors.txt"
    with (
        errors.open("w") as file,
        start(temporary, host, 0, stdout=subprocess.PIPE, stderr=file) as process,
    ):
        patience = threading.Timer(180, process.kill)
        patience.start()
        try:
            line = process.stdout.readline()
            patience.cancel()
            assert line.endswith(" (ctrl-C to stop)\n"), errors.read_text()
            yield Served(line.split()[0], process, temporary, errors)
        finally:
            patience.cancel()
            process.kill()


@contextlib.contextmanager
def opened(browser, url):
    """Opens the page, and checks that it sends no request to other hosts."""
    hosts = set()
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(TIMEOUT)
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(url)
    yield page
    page.close()
    # Addresses of the page's own memory (blob:, data:) have no host.
    assert hosts - {""} == {urlsplit(url).netloc}


def drop(page, content):
    # The editor has another input. This one is missing while a picture is shown.
    target = page.get_by_role("button").filter(has_text="Drop File Here")
    target.locator("input[type=file]").set_input_files(
        {"name": "picture.png", "mimeType": "image/png", "buffer": content}
    )


def screen(page, box):
    with Image.open(io.BytesIO(page.screenshot(clip=box))) as image:
        return np.asarray(image.convert("RGB"))


def shown(page):
    """Waits until the editor shows a picture that no longer moves, and returns the editor's box.

    The editor exists before it has a picture, and the picture grows until it fits.
    """
    canvas = page.locator("#hole canvas").first
    canvas.wait_for()
    deadline = time.monotonic() + TIMEOUT / 1000
    before = None
    while time.monotonic() < deadline:
        box = canvas.bounding_box()
        pixels = screen(page, box)
        # Most of an editor without a picture, or with a small one, is white.
        filled = (pixels < 240).any(axis=-1).mean() > 0.6
        if filled and before is not None and np.array_equal(before, pixels):
            return box
        before = pixels
        page.wait_for_timeout(500)
    pytest.fail("the editor showed no picture")


def paint(page):
    """Drags the brush through the middle of the picture."""
    box = shown(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 50, y)
    page.mouse.down()
    page.mouse.move(x + 50, y + 20, steps=10)
    page.mouse.up()
    for _ in range(30):
        page.wait_for_timeout(500)
        if (screen(page, box) == PAINT).all(axis=-1).sum() > 500:
            return
    pytest.fail("the picture showed no stroke")


def fill(page):
    page.get_by_role("button", name="Fill").click()


def result(page, name):
    """The column of the page with a model's filled picture and its time."""
    return page.locator(".column").filter(has=page.get_by_text(name, exact=True)).last


def download(page, part):
    """The picture in a part of the page."""
    with page.expect_download() as saved:
        part.get_by_label("Download").click()
    with Image.open(saved.value.path()) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def message_has(text):
    return f"document.querySelector('#message textarea')?.value.includes('{text}')"
