"""Names and shapes in the layouts against the lists in ``keys``, and arrangements of values."""

import math

import jax
import numpy as np
import pytest

from experiments.data.coco import OFFICIAL_IDS
from experiments.detection.conversion.layouts import layout
from tests.experiments.detection.conversion import key_lists
from tests.experiments.detection.conversion.networks import (
    LISTS,
    detector,
    file_shapes,
    narrow,
    shapes,
)


@pytest.mark.parametrize(
    "name",
    [
        # Tracing twice as many layers takes seconds.
        pytest.param(name, marks=[pytest.mark.slow] * name.endswith("r101"))
        for name in LISTS
    ],
)
def test_a_layout_has_the_names_and_shapes_of_the_library(name):
    model, library, names = LISTS[name]
    unused = layout(library, model, names).unused
    listed = {key: shape for key, shape in key_lists.read(name).items() if unused(key) is None}
    assert file_shapes(model, library, names) == listed


@pytest.mark.parametrize("name", key_lists.COUNTS)
def test_the_lists_have_the_numbers_of_arrays_and_parameters_of_the_published_files(name):
    arrays, counters, parameters = key_lists.COUNTS[name]
    listed = key_lists.read(name)
    assert len(listed) == arrays
    assert sum("num_batches_tracked" in key for key in listed) == counters
    if parameters is not None:
        params = jax.tree.leaves(shapes(LISTS[name][0])["params"])
        assert sum(math.prod(leaf.shape) for leaf in params) == parameters
        running = (math.prod(shape) for key, shape in listed.items() if "running_" in key)
        assert sum(map(math.prod, listed.values())) == parameters + sum(running) + counters


def test_every_array_has_a_name_of_its_own():
    for name, (model, library, names) in LISTS.items():
        if name.endswith("r101"):
            continue
        sources = layout(library, model, names).sources(shapes(model))
        assert len({source.name for source in sources.values()}) == len(sources)


def test_the_rows_of_torchvision_are_the_ids_of_coco():
    model = narrow(detector(masks=True))
    source = layout("torchvision", model).source
    bias = np.arange(91, dtype=np.float32)
    classes = source(("params", "box_head", "classes", "bias")).arrangement
    np.testing.assert_array_equal(classes.to_model(bias), [*OFFICIAL_IDS, 0])
    masks = source(("params", "mask_head", "masks", "bias")).arrangement
    np.testing.assert_array_equal(masks.to_model(bias), OFFICIAL_IDS)
    boxes = source(("params", "box_head", "boxes", "bias")).arrangement
    deltas = np.arange(4 * 91, dtype=np.float32).reshape(91, 4)
    np.testing.assert_array_equal(
        boxes.to_model(deltas.reshape(-1)).reshape(80, 4), deltas[[*OFFICIAL_IDS]]
    )
    kernel = np.stack([bias] * 3, axis=-1)
    kernels = source(("params", "box_head", "classes", "kernel")).arrangement
    np.testing.assert_array_equal(kernels.to_model(kernel), np.stack([[*OFFICIAL_IDS, 0]] * 3))


def test_ids_that_coco_does_not_use_are_never_the_class_in_a_new_file():
    model = narrow(detector())
    classes = layout("torchvision", model).source(("params", "box_head", "classes", "bias"))
    biases = classes.arrangement.to_file(np.zeros(81, np.float32))
    unused = [row for row in range(91) if row not in {0, *OFFICIAL_IDS}]
    probabilities = np.exp(biases) / np.exp(biases).sum()
    assert len(unused) == 10
    assert (probabilities[unused] < 1e-40).all()


@pytest.mark.parametrize(
    ("library", "name", "reason"),
    [
        ("mmdet", "backbone.bn1.num_batches_tracked", "counter"),
        ("detectron2", "pixel_mean", "config"),
        ("detectron2", "proposal_generator.anchor_generator.cell_anchors.4", "config"),
    ],
)
def test_arrays_that_the_detector_does_not_need_have_a_reason(library, name, reason):
    assert reason in layout(library, detector()).unused(name)


@pytest.mark.parametrize("name", ["pixel_mean", "head.weight", "roi_heads.box_head.fc3.weight"])
def test_other_arrays_must_be_used(name):
    assert layout("torchvision", detector()).unused(name) is None
