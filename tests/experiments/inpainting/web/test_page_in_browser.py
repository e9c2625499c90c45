"""Tests the served page in a headless Chromium (`apt install chromium`)."""

import io
import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from experiments.inpainting.web.page import MAX_BYTES
from tests.experiments.inpainting.web.served_page import (
    COFFEE,
    GREYS,
    SLOW,
    download,
    drop,
    fill,
    message_has,
    opened,
    paint,
    result,
    serving,
    shown,
    start,
)
from tests.experiments.inpainting.web.test_comparison import BAD_PICTURES

pytestmark = pytest.mark.web


def test_a_painted_hole_is_filled_by_both_models(page):
    drop(page, COFFEE.read_bytes())
    paint(page)
    fill(page)
    baseline, carafe = (download(page, result(page, name)) for name in GREYS)
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
    first_pixels = {tuple(download(page, result(page, name))[0, 0]) for name in GREYS}
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
