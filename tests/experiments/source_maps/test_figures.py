import jax
import numpy as np
import pytest

from experiments.source_maps.figures import pixels_of, pyramid_figure, sources_figure
from experiments.source_maps.pathways import (
    fixed_top_down,
    image_sources,
    sources,
)
from experiments.source_maps.targets import Target
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up

LEVELS = [(10, 14), (5, 7), (3, 4), (2, 2)]
IMAGE = np.full((40, 56, 3), 200, np.uint8)
TARGETS = [Target(4, 5, "inside", 1), Target(9, 13, "background", 0)]


def count(pixels, red):
    """Number of pixels that are red, or green."""
    r, g, b = (pixels[..., channel].astype(int) for channel in range(3))
    return int(((r - g > 60) & (r - b > 60) if red else (g - r > 60) & (g - b > 60)).sum())


def test_sources_are_red_and_targets_are_green():
    pathways = {name: fixed_top_down(LEVELS, name) for name in ("bilinear", "nearest")}
    figure = sources_figure(IMAGE, pathways, TARGETS, "title")
    assert not any(axes.texts for axes in figure.axes)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["bilinear", "nearest"]
    assert [axes.get_title() for axes in figure.axes[:2]] == ["inside an object", "background"]
    pixels = pixels_of(figure)
    assert pixels.dtype == np.uint8
    assert count(pixels, red=True) > 100
    assert count(pixels, red=False) > 100
    nothing = {name: with_weights(pathway, 0) for name, pathway in pathways.items()}
    figure = sources_figure(IMAGE, nothing, TARGETS, "title")
    assert count(pixels_of(figure), red=True) == 0
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["0 % in image"] * 4


def test_weight_in_the_padding_of_the_input_does_not_count():
    image = np.full((50, 75, 3), 200, np.uint8)  # in an input of 64x96 pixels
    pathway = fixed_bottom_up((32, 48), "box")
    (weights,) = sources(pathway, [(1, 2)])
    in_image = weights[:25, :38].sum()
    assert in_image < 0.8 * weights.sum()
    (drawn,) = image_sources(pathway, [(1, 2)], (50, 75))
    assert drawn.sum() == pytest.approx(in_image)
    figure = sources_figure(image, {"box": pathway}, [Target(1, 2, "inside", 1)], "title")
    note = f"{100 * in_image:.0f} % in image"
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [note]


def with_weights(pathway, factor):
    return jax.tree.map(lambda kernels: factor * kernels, pathway)


def test_a_small_part_of_a_large_image_has_a_row_of_its_own():
    large = np.zeros((320, 320, 3), np.uint8)
    pathways = {"strided": fixed_bottom_up((160, 160), "strided", steps=2)}
    target = Target(20, 30, "inside", 1)
    figure = sources_figure(large, pathways, [target], "title", ["heading"])
    whole, part = figure.axes
    assert (whole.get_title(), part.get_title()) == ("heading", "")
    assert (whole.get_ylabel(), part.get_ylabel()) == ("strided, whole image", "strided")
    assert whole.get_xlim() == (-0.5, 319.5)
    left, right = part.get_xlim()
    assert right - left < 30
    assert left < 30.5 * 8 < right


def test_each_network_has_a_panel_for_each_level():
    levels = [np.random.default_rng(0).normal(size=(*size, 3)) for size in LEVELS]
    halves = {
        "nearest": (levels, fixed_top_down(LEVELS, "nearest")),
        "bilinear": (levels, fixed_top_down(LEVELS, "bilinear")),
    }
    figure = pyramid_figure(IMAGE, halves, TARGETS, "title")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        f"{name}, {level}" for level in ("image", "P5", "P4", "P3", "P2") for name in halves
    ]
    assert pixels_of(figure).ndim == 3
