"""The served page in a headless Chromium: `apt install chromium`."""

import io
import shutil
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from experiments.data.composed.photographs import pypi_photographs
from tests.experiments.inpainting.web.served import GREYS, serving
from tests.experiments.inpainting.web.test_serve import BAD_PICTURES

pytestmark = pytest.mark.web

COFFEE = pypi_photographs()[2].path
PAINT = (255, 0, 170)
PATIENCE = 60_000  # milliseconds


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


@pytest.fixture
def page(browser, server):
    """A page that asks no other host than the server for anything."""
    hosts = set()
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(server.url)
    yield page
    page.close()
    # Addresses of the page's own memory (blob:, data:) have no host.
    assert hosts - {""} == {f"127.0.0.1:{server.port}"}


def drop(page, name, content, mime="image/png"):
    page.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": mime, "buffer": content}
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


def download(page, name):
    image = page.locator(f"#image-{name} img")
    image.wait_for()
    answer = page.request.get(image.get_attribute("src"))
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.body())) as opened:
        return np.asarray(opened)


def test_a_painted_hole_is_filled_by_both_models(page):
    drop(page, "coffee.png", COFFEE.read_bytes())
    paint(page)
    page.get_by_role("button", name="Fill").click()
    baseline, carafe = download(page, "baseline"), download(page, "carafe")
    with Image.open(COFFEE) as opened:
        original = np.asarray(opened)
    hole = (baseline != carafe).any(axis=-1)
    for filled, grey in zip((baseline, carafe), GREYS.values(), strict=True):
        np.testing.assert_array_equal(filled, np.where(hole[..., None], grey, original))
    rows, columns = np.nonzero(hole)
    assert 0.01 < hole.mean() < 0.3
    assert abs(rows.mean() - 200) < 40
    assert abs(columns.mean() - 300) < 40
    for name in ("baseline", "carafe"):
        assert " ms" in page.locator(f"#time-{name}").inner_text()
    assert page.get_by_text("CARAFE++", exact=True).is_visible()
    assert not page.locator("#message").is_visible()


def test_without_a_hole_or_a_picture_the_page_says_what_to_do(page):
    page.get_by_role("button", name="Fill").click()
    page.wait_for_function(told("drop one first"))
    drop(page, "coffee.png", COFFEE.read_bytes())
    page.locator("#hole canvas").first.wait_for()
    page.get_by_role("button", name="Fill").click()
    page.wait_for_function(told("no hole"))


def told(text):
    return f"document.querySelector('#message textarea')?.value.includes('{text}')"


def test_bad_pictures_are_refused_and_the_next_is_taken(page):
    for text, content in {
        "the picture": b"no picture",
        "at most 16,000,000 pixels": BAD_PICTURES["16,000,000 pixels"],
        "several frames": BAD_PICTURES["frames"],
        "truncated": BAD_PICTURES["picture .*truncated"],
    }.items():
        drop(page, "picture.png", content)
        page.wait_for_function(told(text))
    drop(page, "coffee.png", COFFEE.read_bytes())
    page.locator("#message").wait_for(state="hidden")
    page.locator("#hole canvas").first.wait_for()


def test_long_files_are_refused_and_the_next_is_taken(page, tmp_path):
    long = tmp_path / "long.png"
    long.write_bytes(bytes(20 * 2**20 + 1))
    page.locator("input[type=file]").first.set_input_files(long)
    page.get_by_text("exceed the maximum allowed size of 20").first.wait_for()
    drop(page, "coffee.png", COFFEE.read_bytes())
    page.locator("#hole canvas").first.wait_for()
