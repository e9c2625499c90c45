"""Converted detectors of mmdet and detectron2 compute the same as their twins in plain PyTorch.

The twins are written from the published definitions. They show names, arrangements and the order of
the channels, but no code of the libraries.
"""

import jax
import numpy as np
import pytest

from tests.experiments.detection.conversion.in_pytorch import (
    converted,
    detectron2_twins,
    error,
    first,
    image,
    jitted,
    last,
    mmdet_twins,
    randomise_norms,
    torch,
)

pytestmark = pytest.mark.torch

# In standard deviations of the outputs.
TOLERANCE = 5e-5
# P6 of this input is smaller than half of P5, so FPN_CARAFE crops.
HEIGHT, WIDTH = 96, 160


def make(name):
    return {
        "mmdet": lambda: mmdet_twins().Mmdet(masks=True),
        "mmdet with CARAFE": lambda: mmdet_twins().Mmdet(masks=True, carafe=True),
        "mmdet with DCNv2": lambda: mmdet_twins().Mmdet(masks=True, deformable=True),
        "detectron2": lambda: detectron2_twins().Detectron2(masks=True),
        "detectron2 with DCNv2": lambda: detectron2_twins().Detectron2(masks=True, deformable=True),
    }[name]()


NAMES = [
    "mmdet",
    "mmdet with CARAFE",
    "mmdet with DCNv2",
    "detectron2",
    "detectron2 with DCNv2",
]


@pytest.fixture(scope="module", params=NAMES)
def theirs(request):
    torch().manual_seed(0)
    model = make(request.param).eval()
    randomise_norms(model)
    for module in model.modules():
        if isinstance(module, mmdet_twins().Carafe):
            # Otherwise all kernels would be almost uniform.
            torch().nn.init.normal_(module.content_encoder.weight, 0, 0.2)
    for name, parameter in model.named_parameters():
        if "offset" in name and parameter.ndim > 1:
            # Offsets of about a pixel.
            torch().nn.init.normal_(parameter, 0, (9 * parameter.shape[1]) ** -0.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return converted(theirs, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def pyramid(theirs):
    return [last(level) for level in theirs(first(image(HEIGHT, WIDTH)))]


def test_backbone(theirs, ours):
    model, variables, _ = ours
    found = jitted(model, lambda module, x: module.backbone.features(x))(
        variables, image(HEIGHT, WIDTH)
    )
    expected = theirs.features(first(image(HEIGHT, WIDTH)))
    for level, wanted in zip(found, expected, strict=True):
        assert error(level, last(wanted)) < TOLERANCE


def test_pyramid(ours, pyramid):
    model, variables, _ = ours
    found = jitted(model, "features")(variables, image(HEIGHT, WIDTH))
    assert [level.shape[1:3] for level in found] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    for level, wanted in zip(found, pyramid, strict=True):
        assert error(level, wanted) < TOLERANCE


def test_logits_and_deltas_of_anchors(theirs, ours, pyramid):
    model, variables, _ = ours
    found = jitted(model, lambda module, levels: module.rpn(levels))(variables, tuple(pyramid))
    for level, logits, deltas in zip(pyramid, *found, strict=True):
        expected, moved = theirs.rpn(first(level))
        assert error(logits, last(expected).reshape(1, -1)) < TOLERANCE
        assert error(deltas, last(moved).reshape(1, -1, 4)) < TOLERANCE


def regions(side):
    return np.random.default_rng(side).standard_normal((8, side, side, 256), np.float32)


def test_box_head(theirs, ours):
    model, variables, _ = ours
    x = regions(7)
    found = jitted(model, lambda module, x: module.box_head(x))(variables, x[None])
    logits, deltas = theirs.box(first(x))
    assert error(found[0][0], logits) < TOLERANCE
    assert error(found[1][0], deltas.reshape(8, 80, 4)) < TOLERANCE


def test_mask_head(theirs, ours):
    model, variables, _ = ours
    x = regions(14)
    found = jitted(model, lambda module, x: module.mask_head(x))(variables, x[None])
    assert error(found[0], last(theirs.mask(first(x)))) < TOLERANCE


def test_the_run_has_the_settings_of_the_library(theirs, ours):
    _, _, config = ours
    detectron2 = isinstance(theirs, detectron2_twins().Detectron2)
    backbone = config.model.backbone
    assert backbone.stride_in_1x1 == detectron2
    assert backbone.input.channels == ("bgr" if detectron2 else "rgb")
    assert backbone.norm_epsilon == 1e-5
    assert config.model.roi_align.sampling_ratio == 0


def test_the_twins_are_random_enough(theirs, pyramid):
    """Otherwise a difference of an output would not show."""
    deviations = [level.std() for level in pyramid]
    assert all(0.1 < deviation < 30 for deviation in deviations)
    assert jax.tree.leaves(deviations)
