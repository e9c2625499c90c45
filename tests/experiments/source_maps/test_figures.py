import numpy as np
import pytest

from experiments.source_maps.figures import pixels_of, pyramid_figure, sources_figure
from experiments.source_maps.pathways import fixed_bottom_up, fixed_top_down
from experiments.source_maps.targets import Target

LEVELS = [(10, 14), (5, 7), (3, 4), (2, 2)]
IMAGE = np.full((40, 56, 3), 200, np.uint8)
TARGETS = [Target(4, 5, "inside", 1), Target(9, 13, "background", 0)]


def count(pixels, red):
    """Number of pixels that are red, or green."""
    r, g, b = (pixels[..., channel].astype(int) for channel in range(3))
    return int(((r - g > 60) & (r - b > 60) if red else (g - r > 60) & (g - b > 60)).sum())


@pytest.mark.parametrize("direction", ["up", "down"])
def test_sources_are_red_and_targets_are_green(direction):
    if direction == "up":
        pathways = {name: fixed_top_down(LEVELS, name) for name in ("box", "nearest")}
        targets = TARGETS
    else:
        pathways = {name: fixed_bottom_up((20, 28), name) for name in ("box", "strided")}
        targets = [Target(1, 1, "inside", 1)]
    pixels = pixels_of(sources_figure(IMAGE, pathways, targets, "title"))
    assert pixels.dtype == np.uint8
    assert count(pixels, red=True) > 100
    assert count(pixels, red=False) > 100


def test_each_network_has_a_panel_for_each_level():
    levels = [np.random.default_rng(0).normal(size=(*size, 3)) for size in LEVELS]
    halves = {
        "nearest": (levels, fixed_top_down(LEVELS, "nearest")),
        "box": (levels, fixed_top_down(LEVELS, "box")),
    }
    figure = pyramid_figure(IMAGE, halves, TARGETS, "title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [f"{name}, P{level}" for level in (5, 4, 3, 2) for name in halves]
    assert pixels_of(figure).ndim == 3
