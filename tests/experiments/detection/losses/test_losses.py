import jax
import numpy as np
import pytest

from experiments.detection.losses import make_loss_function
from experiments.detection.model.sampler_config import SamplerConfig
from experiments.detection.model.sampling import Objects, sample
from tests.compilation import jit
from tests.experiments.detection.losses.batches import ANCHORS, PARTS, make_batch, make_config
from tests.experiments.detection.losses.loops import (
    expected_losses,
    head_losses,
    inside,
    objects_of,
    rpn_losses,
)
from tests.experiments.detection.model.shallow import CONFIG


@pytest.mark.parametrize(
    "batch",
    [make_batch(4, 7), make_batch(0, 3), make_batch(6, 5, crowds=2), make_batch(300, 40)],
    ids=["objects", "an image without objects", "crowds", "300 objects"],
)
def test_losses_agree_with_the_loops(loss, stages, batch):
    sums, gradient = loss(batch)
    expected = expected_losses(stages(batch), batch)
    assert sums.metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(sums.metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        assert value > 0
    np.testing.assert_allclose(sums.loss, sum(expected[name] for name in PARTS), rtol=1e-4)
    assert sums.count == 2
    for leaf in jax.tree.leaves(gradient):
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()


def test_without_objects_all_examples_are_background(loss, stages):
    batch = make_batch(0, 0)
    sums, gradient = loss(batch)
    expected = expected_losses(stages(batch), batch)
    for name in ("rpn_objectness", "classes"):
        np.testing.assert_allclose(sums.metrics[name], expected[name], rtol=1e-4)
        assert expected[name] > 0
    for name in ("rpn_boxes", "boxes", "masks", "positives"):
        assert sums.metrics[name] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    heads = [gradient["mask_head"], gradient["box_head"]["boxes"], gradient["rpn"]["boxes"]]
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(heads))


def test_examples_in_a_crowd_have_no_loss(loss):
    """The crowd covers the whole image: no example is background, and none is an object."""
    batch = make_batch(1, 1, crowds=1)
    batch["boxes"][:, 0] = [0, 0, 64, 64]
    sums, gradient = loss(batch)
    assert sums.loss == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_objects_without_area_or_outside_the_image_have_finite_losses(loss):
    batch = make_batch(4, 4)
    batch["boxes"][:, 0] = [10, 10, 10, 30]
    batch["boxes"][:, 1] = [20, 20, 20, 20]
    batch["boxes"][:, 2] = [100, 100, 120, 130]
    sums, gradient = loss(batch)
    assert np.isfinite(sums.loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_losses_of_a_sample(detector, stages):
    """Samples are so small that most examples are left out, and masks are even fewer."""
    model, params = detector
    anchors = SamplerConfig(16, 0.25, 0.5, 0.3, best_for_each=True)
    rois = SamplerConfig(12, 0.25, 0.5, 0.5, best_for_each=False)
    function = make_loss_function(model, make_config(CONFIG, anchors, rois))
    batch, key = make_batch(8, 20, crowds=1), jax.random.key(3)
    sums = jit(function)(params, {}, batch, key)
    found = stages(batch)
    draw = jit(sample, static_argnums=4)
    keys = jax.random.split(key, (2, 2))
    total = dict.fromkeys((*PARTS, "positives"), 0.0)
    for image in range(2):
        objects = objects_of(batch, image)
        rows = Objects(batch["boxes"][image], *objects[1:])
        chosen = draw(
            keys[0, image], ANCHORS.astype(np.float32), inside(batch, image), rows, anchors
        )
        index = np.asarray(chosen.index)
        matched = np.zeros(len(ANCHORS), int)
        matched[index] = chosen.matched
        roles = np.zeros((2, len(ANCHORS)), bool)
        roles[0, index[chosen.positive]] = True
        roles[1, index[chosen.valid & ~chosen.positive]] = True
        assert roles.sum(axis=1).tolist() == [4, 12]
        parts = rpn_losses(found, image, objects, *roles, matched)

        usable = np.concatenate([found["valid"][image], np.asarray(rows.single)])
        boxes = found["boxes"][image].astype(np.float32)
        chosen = draw(keys[1, image], boxes, usable, rows, rois)
        positive = np.asarray(chosen.positive).tolist()
        assert positive == [True] * 3 + [False] * 9
        taken = [
            (int(index), int(owner) if of_object else None)
            for index, owner, of_object, there in zip(
                chosen.index, chosen.matched, positive, np.asarray(chosen.valid), strict=True
            )
            if there
        ]
        masked = {index for index, owner in taken if owner is not None}
        parts |= head_losses(found, image, objects, batch["masks"][image], taken, masked)
        for name, value in parts.items():
            total[name] += value
    for name, value in total.items():
        np.testing.assert_allclose(sums.metrics[name], value, rtol=1e-4, err_msg=name)
