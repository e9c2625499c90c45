"""Tests the served page in a headless Chromium (`apt install chromium`)."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
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
COFFEE = pypi_photographs()[2].path  # 600x400
GREYS = {"baseline": 100, "CARAFE++": 200}
PAINT = (255, 0, 170)
TIMEOUT = 60_000  # milliseconds

SLOW = (1, 2, 3)  # colour of the first pixel of a picture whose fill waits for a file

# Both models fill with grey, and neither while another fill is running.
SERVER = f"""
import os
import sys
import threading
import time
from pathlib import Path
import numpy as np
from experiments.inpainting.web.page import ServeError, serve_models

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
        # In containers tests run as root, for which the sandbox does not work.
        chromium = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield chromium
        chromium.close()


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


@pytest.fixture
def page(browser, server):
    with opened(browser, server.url) as page:
        yield page


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


def download(page, name):
    with page.expect_download() as saved:
        result(page, name).get_by_label("Download").click()
    with Image.open(saved.value.path()) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def message_has(text):
    return f"document.querySelector('#message textarea')?.value.includes('{text}')"


def test_a_painted_hole_is_filled_by_both_models(page):
    drop(page, COFFEE.read_bytes())
    paint(page)
    fill(page)
    baseline, carafe = (download(page, name) for name in GREYS)
    with Image.open(COFFEE) as image:
        original = np.asarray(image)
    hole = (baseline != carafe).any(axis=-1)
    for filled, grey in zip((baseline, carafe), GREYS.values(), strict=True):
        np.testing.assert_array_equal(filled, np.where(hole[..., None], grey, original))
    rows, columns = np.nonzero(hole)
    assert 0.01 < hole.mean() < 0.3
    assert abs(rows.mean() - 200) < 40
    assert abs(columns.mean() - 300) < 40
    for name in GREYS:
        assert " ms" in result(page, name).inner_text()
    assert not page.locator("#message").is_visible()


def test_a_second_picture_clears_the_results_of_the_first(page):
    drop(page, COFFEE.read_bytes())
    paint(page)
    fill(page)
    for name in GREYS:
        result(page, name).locator("img").wait_for()
    page.get_by_label("Clear", exact=True).click()
    drop(page, COFFEE.read_bytes())
    for name in GREYS:
        result(page, name).locator("img").wait_for(state="detached")
        result(page, name).get_by_text(" ms").wait_for(state="detached")
    # The second picture does not have the hole of the first.
    shown(page)
    fill(page)
    page.wait_for_function(message_has("no hole"))


def clear_while_filling(page):
    """Starts the fill of a slow picture, and clears the picture."""
    with Image.open(COFFEE) as image:
        image.putpixel((0, 0), SLOW)
        image.save(content := io.BytesIO(), "png")
    drop(page, content.getvalue())
    paint(page)
    fill(page)
    # The fill has left the queue and is running.
    page.get_by_text("processing").first.wait_for()
    page.get_by_label("Clear", exact=True).click()


def test_a_fill_still_running_when_its_picture_is_cleared_is_not_shown(page, server):
    clear_while_filling(page)
    drop(page, COFFEE.read_bytes())
    paint(page)
    fill(page)
    # The next fill waits for the end of the first.
    page.wait_for_timeout(3000)
    for name in GREYS:
        assert not result(page, name).locator("img").count()
    server.release.touch()
    first_pixels = {tuple(download(page, name)[0, 0]) for name in GREYS}
    server.release.unlink()
    with Image.open(COFFEE) as image:
        assert first_pixels == {image.getpixel((0, 0))}


def test_a_fill_ending_when_its_picture_is_cleared_is_not_shown(page, server):
    clear_while_filling(page)
    drop(page, COFFEE.read_bytes())
    shown(page)
    server.release.touch()
    page.wait_for_timeout(3000)
    server.release.unlink()
    for name in GREYS:
        assert not result(page, name).locator("img").count()


def test_clearing_the_picture_hides_the_message_about_it(page):
    drop(page, COFFEE.read_bytes())
    shown(page)
    fill(page)
    page.wait_for_function(message_has("no hole"))
    page.get_by_label("Clear", exact=True).click()
    page.locator("#message").wait_for(state="hidden")


def test_without_a_hole_or_a_picture_the_page_says_what_to_do(page):
    fill(page)
    page.wait_for_function(message_has("drop a picture first"))
    drop(page, COFFEE.read_bytes())
    shown(page)
    fill(page)
    page.wait_for_function(message_has("no hole"))


def test_bad_pictures_are_refused_and_the_next_picture_is_accepted(page):
    for text, message in {
        "no picture of a known format": "the picture cannot be read: no picture of a known format",
        "at most 16,000,000 pixels": "16,000,000 pixels",
        "several frames": "frames",
        "truncated": "picture .*truncated",
        "must be opaque": "opaque",
    }.items():
        drop(page, BAD_PICTURES[message])
        page.wait_for_function(message_has(text))
    drop(page, COFFEE.read_bytes())
    page.locator("#message").wait_for(state="hidden")
    shown(page)


def test_large_files_are_refused_and_the_next_file_is_accepted(page):
    drop(page, bytes(MAX_BYTES + 1))
    page.get_by_text("exceed the maximum allowed size of 20").first.wait_for()
    drop(page, COFFEE.read_bytes())
    shown(page)


@pytest.mark.parametrize(("number", "host"), [(signal.SIGINT, "::1"), (signal.SIGTERM, "0.0.0.0")])
def test_no_picture_is_left_when_the_server_is_stopped(browser, tmp_path, number, host):
    with serving(tmp_path, host) as server, opened(browser, server.url) as page:
        drop(page, COFFEE.read_bytes())
        shown(page)
        assert server.temporary_bytes() > 0
        server.process.send_signal(number)
        assert server.process.wait(timeout=60) == 0
        assert server.temporary_bytes() == 0
        assert (f"warning: with host {host}, " in server.errors.read_text()) is (host == "0.0.0.0")


def refusal(host, port, folder, variables=()):
    with start(folder, host, port, variables, stderr=subprocess.PIPE) as process:
        _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "Traceback" not in errors
    return errors.splitlines()[-1]


def test_an_address_on_which_the_server_cannot_listen_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"host 127.0.0.1, port {port}: " in refusal("127.0.0.1", port, tmp_path)
    for host in ("192.0.2.1", "no-machine.invalid"):  # another machine, and no machine
        assert f"host {host}, port {port}: " in refusal(host, port, tmp_path)


def test_a_proxy_that_hides_the_page_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
    variables = {"http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "", "NO_PROXY": ""}
    assert "host 127.0.0.1, port 0: " in (error := refusal("127.0.0.1", 0, tmp_path, variables))
    assert "NO_PROXY=localhost,127.0.0.1" in error


def get(url):
    """Sends a request directly to the server, without a proxy."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url) as response:
        return response.read()


def test_the_server_exposes_no_other_files_and_no_functions(server):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        get(f"{server.url}gradio_api/file=/etc/hostname")
    functions = json.loads(get(f"{server.url}gradio_api/info"))
    assert functions == {"named_endpoints": {}, "unnamed_endpoints": {}}
