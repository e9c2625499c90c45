import numpy as np
import pytest
from PIL import Image

from experiments.engine.errors import InputError
from experiments.inpainting.pathways import Pathways
from experiments.inpainting.prediction.inpainter import TracedImage
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
    drawn = fills.draw(fills.add(picture, painted()), "CARAFE++", column=7, row=5).astype(int)
    factor = drawn.shape[1] // 12
    assert drawn.shape == (8 * factor, 12 * factor, 3)
    middle = drawn[factor // 2 :: factor, factor // 2 :: factor]
    red = middle[..., 0] - middle[..., 1:].max(axis=-1) > 60
    # Three pixels of the block of 2x2 pixels around row 2 and column 3 hold 70 % of the weight.
    assert red.sum() == 3
    assert red[2:4, 2:4].sum() == 3
    assert (middle[5, 5] == 255).all()  # the hole
    assert (middle[0, 0] == 100).all()
    green = drawn[..., 1] - drawn[..., [0, 2]].max(axis=-1) > 60
    rows, columns = np.nonzero(green)
    assert (rows.mean() + 0.5) // factor == 2
    assert (columns.mean() + 0.5) // factor == 3


def test_without_an_upward_pathway_the_sources_of_a_pixel_of_the_coarsest_map_are_red(picture):
    fills = Fills({"CARAFE++": Halving(has_up=False)})
    drawn = fills.draw(fills.add(picture, painted()), "CARAFE++", column=15, row=7).astype(int)
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
        fills.draw(number, "CARAFE++", 0, row)
    assert model.traced == [(16, 24, 3)]


def test_only_the_newest_fills_are_kept(picture):
    fills = Fills({"CARAFE++": Halving()})
    numbers = [fills.add(picture, painted()) for _ in range(9)]
    for number in (None, numbers[0]):
        with pytest.raises(InputError, match="too long ago: press Fill again"):
            fills.draw(number, "CARAFE++", 0, 0)
    assert fills.draw(numbers[1], "CARAFE++", 0, 0).shape[2] == 3
