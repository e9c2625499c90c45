import dataclasses

import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.runs import LoadedRun
from experiments.models.input_normalization import normalize
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.pathways import Observed
from experiments.segmentation.prediction import maps as module
from experiments.segmentation.prediction.maps import MapDrawer, make_drawer
from experiments.segmentation.task import initial_state, make_model
from experiments.source_maps.pathways import fixed_top_down
from tests.experiments.segmentation.tiny import TINY
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up
from tests.experiments.source_maps.sown import assert_has_kernels, sharpened, sow

NAMES = ("dark", "bright", "reddish")
PIXELS = np.full((1, 64, 96, 3), 120, np.uint8)
LEVELS = [(16, 24), (8, 12), (4, 6), (2, 3)]


def config(fpn="carafe", downsampler="carafe", architecture="upernet"):
    model = SegmenterConfig(architecture, ResNetConfig(50, downsampler), fpn=fpn)
    return dataclasses.replace(SegmentationConfig(), model=model)


def half_dark():
    """The class map of an image of twice the size: dark on the left, and bright, which is more."""
    classes = np.ones((128, 192), np.uint8)
    classes[:, :80] = 0
    return classes


@pytest.fixture
def drawn(monkeypatch):
    """The titles of the columns, and the names of the pathways, of each figure."""
    found = []

    def figure(image, pathways, targets, title, headings):
        found.append([list(pathways), pathways, targets, title, headings])

    monkeypatch.setattr(module, "sources_figure", figure)
    monkeypatch.setattr(module, "pixels_of", lambda figure: PIXELS[0])
    return found


def test_targets_lie_in_the_regions_of_classes_and_the_largest_is_the_background(drawn):
    observed = Observed(fixed_top_down(LEVELS, "box"), fixed_bottom_up((32, 48), "box"))
    drawer = MapDrawer(config(), lambda pixels: observed, NAMES)
    assert drawer.kinds == ["maps-up", "maps-down"]
    assert list(drawer(PIXELS, half_dark(), "a.png")) == drawer.kinds
    (names, _, targets, title, headings), (below, *_) = drawn
    assert names == ["CARAFE++", "bilinear", "box"]
    assert below == ["CARAFE++", "box"]
    assert title == "a.png, as the network reads it: 96x64 pixels"
    assert headings == [
        *["inside dark"] * 2,
        *["border of dark"] * 2,
        *["bright, largest"] * 2,
    ]
    # The border is at column 10 of P2, whose stride is 4.
    assert [target.column < 10 for target in targets] == [True] * 4 + [False] * 2
    assert {target.column for target in targets[2:4]} == {9}


def test_an_image_of_one_class_has_targets_on_a_grid(drawn):
    drawer = MapDrawer(
        config("nearest", "strided"),
        lambda pixels: Observed(fixed_top_down(LEVELS, "nearest"), None),
        NAMES,
    )
    assert list(drawer(PIXELS, np.full((5, 9), 2, np.uint8), "")) == drawer.kinds == ["maps-up"]
    ((names, _, targets, _, headings),) = drawn
    assert names == ["nearest", "bilinear", "box"]
    assert len(targets) == 6
    assert headings == ["reddish, largest"] * 6


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.slow
def test_figures_show_the_kernels_of_the_network(drawn):
    backbone = dataclasses.replace(TINY.model.backbone, downsampler="carafe")
    model_config = dataclasses.replace(TINY.model, backbone=backbone)
    tiny = dataclasses.replace(TINY, model=model_config)
    state = initial_state(tiny)
    state["params"] = sharpened(state["params"])
    names = [str(number) for number in range(150)]
    drawer = make_drawer(LoadedRun(tiny, state, 0), names)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    drawer(pixels, np.zeros((64, 64), np.uint8), "")
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    x = normalize(pixels, backbone.input)
    _, sown = sow(make_model(tiny), variables, x)
    assert len(drawn) == 2
    for _, pathways, *_ in drawn:
        assert_has_kernels(pathways["CARAFE++"], sown)


def test_a_network_without_maps_is_refused():
    with pytest.raises(ConfigError, match=r"model\.fpn"):
        MapDrawer(config("pixel_shuffle", "strided"), None, NAMES)
