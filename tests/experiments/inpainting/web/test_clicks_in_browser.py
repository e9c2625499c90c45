"""Tests clicks on the results of the served page in a headless Chromium."""

import numpy as np
import pytest

from tests.experiments.inpainting.web.served_page import (
    COFFEE,
    download,
    drop,
    fill,
    message_has,
    paint,
    result,
    shown,
)

pytestmark = pytest.mark.web

HEADING = "Where this pixel comes from"


def filled_image(page):
    image = result(page, "CARAFE++").locator("img")
    image.wait_for()
    page.wait_for_function(
        "image => image.complete && image.naturalWidth == 600", arg=image.element_handle()
    )
    return image


def test_a_click_on_a_filled_picture_shows_the_sources_of_the_pixel(page):
    drop(page, COFFEE.read_bytes())
    paint(page)
    fill(page)
    image = filled_image(page)
    assert not page.locator("#sources").is_visible()
    box = image.bounding_box()
    image.click(position={"x": box["width"] / 4, "y": box["height"] / 2})
    page.locator("#sources img").wait_for()
    heading = page.locator("#sources").get_by_text(HEADING).first.inner_text()
    assert heading.startswith(f"{HEADING}: CARAFE++, row ")
    row, column = (int(part.split()[-1]) for part in heading.split(", ")[1:])
    assert abs(row - 200) <= 3
    assert abs(column - 150) <= 3
    drawn = download(page, page.locator("#sources")).astype(int)
    assert drawn.shape == (400, 600, 3)
    red = drawn[..., 0] - drawn[..., 1:].max(axis=-1) > 60
    assert red[row, column]
    assert red.sum() == 1  # the frame hides the rest of the pixel of the coarser map
    green = drawn[..., 1] - drawn[..., [0, 2]].max(axis=-1) > 60
    rows, columns = np.nonzero(green)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (
        row - 2,
        row + 2,
        column - 2,
        column + 2,
    )


def test_sources_are_hidden_when_the_picture_is_cleared(page):
    drop(page, COFFEE.read_bytes())
    paint(page)
    fill(page)
    filled_image(page).click()
    page.locator("#sources img").wait_for()
    page.get_by_label("Clear", exact=True).click()
    page.locator("#sources").wait_for(state="hidden")
    drop(page, COFFEE.read_bytes())
    shown(page)
    fill(page)
    page.wait_for_function(message_has("no hole"))
    assert not page.locator("#sources").is_visible()
