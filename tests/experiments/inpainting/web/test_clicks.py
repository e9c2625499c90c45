import re

import numpy as np
import pytest
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.inpainting.pathways import Pathways
from experiments.inpainting.prediction.inpainter import SeveralTilesError, TracedImage
from experiments.inpainting.web.clicks import Fills
from experiments.resamplers.fixed_kernels import nearest_kernels
from experiments.source_maps.pathways import DOWNSAMPLERS, Pathway

SIZE = (8, 12)  # at which the network reads the picture of 16x24 pixels


class Halving:
    """A model that reads pictures at half their size."""

    def __init__(self, has_up=True):
        self.traced = []
        self._has_up = has_up

    def trace(self, image, hole):
        self.traced.append(image.shape)
        down = Pathway(
            name="",
            steps=(DOWNSAMPLERS["avg_pool"](SIZE),),
            source_stride=1,
            target_stride=2,
            target_size=(4, 6),
        )
        up = Pathway(
            name="",
            steps=(nearest_kernels((4, 6)),),
            source_stride=2,
            target_stride=1,
            target_size=SIZE,
        )
        pathways = Pathways(down, up if self._has_up else None)
        return TracedImage(image[::2, ::2], hole[::2, ::2], pathways)


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((16, 24, 3), 100, np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def painted():
    layer = np.zeros((16, 24, 4), np.uint8)
    layer[8:12, 8:16, 3] = 255
    return Image.fromarray(layer)


def test_the_sources_of_the_clicked_pixel_are_red(picture):
    fills = Fills({"CARAFE++": Halving()})
    drawn = fills.draw(fills.add(picture, painted()), "CARAFE++", (7, 5)).astype(int)
    factor = drawn.shape[1] // 12
    assert drawn.shape == (8 * factor, 12 * factor, 3)
    middle = drawn[factor // 2 :: factor, factor // 2 :: factor]
    red = middle[..., 0] - middle[..., 1:].max(axis=-1) > 60
    assert red.sum() == red[2:4, 2:4].sum() == 4
    assert (middle[5, 5] == 255).all()  # the hole
    assert (middle[0, 0] == 100).all()
    green = drawn[..., 1] - drawn[..., [0, 2]].max(axis=-1) > 60
    rows, columns = np.nonzero(green)
    assert (rows.mean() + 0.5) // factor == 2
    assert (columns.mean() + 0.5) // factor == 3


def test_without_an_upward_pathway_the_sources_of_a_pixel_of_the_coarsest_map_are_red(picture):
    fills = Fills({"CARAFE++": Halving(has_up=False)})
    drawn = fills.draw(fills.add(picture, painted()), "CARAFE++", (15, 7)).astype(int)
    factor = drawn.shape[1] // 12
    red = drawn[..., 0] - drawn[..., 1:].max(axis=-1) > 60
    # Row 3 and column 7 of the picture that the network reads lie in row 1, column 3 of its map.
    inside = slice(2 * factor, 4 * factor), slice(6 * factor, 8 * factor)
    assert red[inside].sum() == red.sum() > 0
    green = drawn[..., 1] - drawn[..., [0, 2]].max(axis=-1) > 60
    assert not green[inside].any()
    rows, columns = np.nonzero(green)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == (3 * factor, 7 * factor)


def test_a_fill_is_traced_once(picture):
    model = Halving()
    fills = Fills({"CARAFE++": model})
    number = fills.add(picture, painted())
    for row in range(3):
        fills.draw(number, "CARAFE++", (0, row))
    assert model.traced == [(16, 24, 3)]


def test_only_the_newest_fills_are_kept(picture):
    fills, layer = Fills({"CARAFE++": Halving()}), painted()
    numbers = [fills.add(picture, layer) for _ in range(99)]
    for number in (None, numbers[0]):
        with pytest.raises(InputError, match="no longer kept: press Fill again"):
            fills.draw(number, "CARAFE++", (0, 0))
    assert fills.draw(numbers[-8], "CARAFE++", (0, 0)).shape[2] == 3


@pytest.mark.parametrize("pixel", [(-1, 0), (0, -1), (24, 0), (0, 16), (1.5, 0), (0,), None, "ab"])
def test_a_click_outside_the_picture_is_refused(picture, pixel):
    fills = Fills({"CARAFE++": Halving()})
    with pytest.raises(InputError, match="pixel .*24x16 pixels, got .*" + re.escape(repr(pixel))):
        fills.draw(fills.add(picture, painted()), "CARAFE++", pixel)


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (SeveralTilesError("leave out full_size"), "several tiles"),
        (ConfigError("model.downsampler"), "no maps"),
    ],
)
def test_visitors_read_of_no_options_of_the_command(picture, error, match):
    class Refusing(Halving):
        def trace(self, image, hole):
            raise error

    fills = Fills({"CARAFE++": Refusing()})
    with pytest.raises(InputError, match=match) as raised:
        fills.draw(fills.add(picture, painted()), "CARAFE++", (0, 0))
    assert str(error) not in str(raised.value)
