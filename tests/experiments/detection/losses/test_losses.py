import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.detection.configs import DetectionConfig
from experiments.detection.data.config import DataConfig
from experiments.detection.losses import make_loss_function
from experiments.detection.model.anchors import pyramid_anchors
from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.detector import Detector, is_frozen
from experiments.detection.model.sampling import Objects, SamplerConfig, sample
from experiments.models.fpn import FPNConfig
from experiments.models.imagenet_statistics import normalize
from experiments.models.resnet import ResNetConfig
from tests.experiments.compilation import jit
from tests.experiments.detection.model.shallow import (
    CLASSES,
    CONFIG,
    PROPOSALS,
    Shallow,
    random_images,
    random_variables,
)

ROWS, SIDE, MASK = 300, 5, 4
SHAPES = [(64 // stride, 64 // stride) for stride in CONFIG.anchors.strides]
ANCHORS = np.concatenate(pyramid_anchors(SHAPES, CONFIG.anchors)).astype(np.float64)
# With room for every example: what is sampled does not depend on the draw.
EVERY_ANCHOR = SamplerConfig(2 * len(ANCHORS), 0.5, 0.7, 0.3, best_for_each=True)
EVERY_ROI = SamplerConfig(2 * (PROPOSALS + ROWS), 0.5, 0.5, 0.5, best_for_each=False)
PARTS = ("rpn_objectness", "rpn_boxes", "classes", "boxes", "masks")


def make_config(model, anchors=EVERY_ANCHOR, rois=EVERY_ROI):
    return DetectionConfig(
        model=model, data=DataConfig(mask_side=SIDE), anchor_sampler=anchors, proposal_sampler=rois
    )


def make_batch(*counts, crowds=0, seed=0):
    """Two images with the given numbers of objects, the first of which are crowds.

    Boxes lie on a grid of quarters, where float32 is exact, and so are ties.
    """
    rng = np.random.default_rng(seed)
    sizes = np.int32([[64, 64], [48, 60]])
    boxes = np.zeros((2, ROWS, 4), np.float32)
    labels = np.full((2, ROWS), -1, np.int32)
    crowd = np.zeros((2, ROWS), bool)
    masks = np.zeros((2, ROWS, SIDE, SIDE), np.uint8)
    for image, count in enumerate(counts):
        corners = rng.integers(0, 36 * 4, (count, 2)) / 4
        sides = rng.integers(1, 26 * 4, (count, 2)) / 4
        limit = sizes[image, ::-1]
        boxes[image, :count] = np.concatenate([corners, np.minimum(corners + sides, limit)], axis=1)
        labels[image, :count] = rng.integers(0, CLASSES, count)
        crowd[image, :crowds] = True
        masks[image, :count] = rng.integers(0, 2, (count, SIDE, SIDE))
    return {
        "image": random_images(seed),
        "size": sizes,
        "boxes": boxes,
        "labels": labels,
        "crowd": crowd,
        "masks": masks,
    }


@pytest.fixture(scope="module")
def detector():
    model = Shallow(CONFIG, CLASSES)
    return model, random_variables(model)["params"]


@pytest.fixture(scope="module")
def loss(detector):
    """Parts of the loss and their sum's gradient for a batch, compiled once."""
    model, params = detector
    function = make_loss_function(model, make_config(CONFIG))

    @jit
    def run(batch, key):
        def total(params):
            sums = function(params, {}, batch, key)
            return sums.loss, sums

        return jax.value_and_grad(total, has_aux=True)(params)

    def losses(batch, seed=0):
        (_, sums), gradient = run(batch, jax.random.key(seed))
        return sums, gradient

    return losses


def stages_of(model, batch):
    """What the network says of anchors, and of proposals and all objects, masks of each class."""
    pyramid = model.features(normalize(batch["image"], batch["size"]))
    logits, deltas, anchors = model.score_anchors(pyramid)
    proposals, valid = model.propose(
        logits, deltas, anchors, batch["size"], model.config.training_proposals
    )
    boxes = jnp.concatenate([proposals, batch["boxes"]], axis=1)
    class_logits, box_deltas = model.classify(pyramid, boxes)
    masks = [
        model.predict_masks(pyramid, boxes, jnp.full(boxes.shape[:2], label))
        for label in range(CLASSES)
    ]
    return {
        "logits": jnp.concatenate(logits, axis=1),
        "deltas": jnp.concatenate(deltas, axis=1),
        "valid": valid,
        "boxes": boxes,
        "class_logits": class_logits,
        "box_deltas": box_deltas,
        "masks": jnp.stack(masks, axis=2),  # [B, R, K, M, M]
    }


@pytest.fixture(scope="module")
def stages(detector):
    model, params = detector
    run = jit(functools.partial(model.apply, method=stages_of))
    return lambda batch: jax.tree.map(
        lambda x: np.asarray(x, bool if x.dtype == bool else np.float64),
        run({"params": params}, batch),
    )


def area(boxes):
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def shared(a, b):
    low, high = (
        np.maximum(a[:, None, :2], b[None, :, :2]),
        np.minimum(a[:, None, 2:], b[None, :, 2:]),
    )
    return np.prod(np.maximum(high - low, 0), axis=-1)


def ratio(a, b):
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)


def assign(examples, usable, objects, config):
    """Which examples are positive and negative, and their objects, for at least one object."""
    boxes, labels, crowd = objects
    both = shared(examples, boxes)
    overlap = ratio(both, area(examples)[:, None] + area(boxes)[None] - both)
    overlap[:, (labels < 0) | crowd] = -1
    overlap[~usable] = -1
    best = overlap.max(axis=1)
    positive = best >= config.positive_iou
    if config.best_for_each:
        highest = overlap.max(axis=0)
        positive |= ((overlap == highest) & (highest > 0)).any(axis=1)
    covered = ratio(both, area(examples)[:, None] + 0 * both)[:, crowd & (labels >= 0)]
    crowded = (covered > 0.7).any(axis=1)
    negative = ~positive & (best < config.negative_iou) & ~crowded
    return positive & usable, negative & usable, overlap.argmax(axis=1)


def encode(boxes, references, weights):
    def parts(x):
        return (x[..., :2] + x[..., 2:]) / 2, np.maximum(x[..., 2:] - x[..., :2], 0.01)

    (centre, sides), (from_centre, from_sides) = parts(boxes), parts(references)
    code = [(centre - from_centre) / from_sides, np.log(sides / from_sides)]
    return np.concatenate(code, axis=-1) * weights


def smooth_l1(x, beta):
    x = np.abs(x)
    return np.where(x < beta, x**2 / (2 * beta), x - beta / 2).sum(axis=-1)


def cross_entropy(logits, target):
    """Binary, of logits."""
    return np.logaddexp(0, logits) - target * logits


def crop(mask, box, roi):
    """The mask of an object on the grid of a region, pixel by pixel."""
    found = np.zeros((MASK, MASK))
    for i in range(MASK):
        for j in range(MASK):
            x = roi[0] + (j + 0.5) / MASK * (roi[2] - roi[0])
            y = roi[1] + (i + 0.5) / MASK * (roi[3] - roi[1])
            if not (box[0] <= x <= box[2] and box[1] <= y <= box[3]):
                continue
            column = np.clip((x - box[0]) / (box[2] - box[0]) * SIDE - 0.5, 0, SIDE - 1)
            row = np.clip((y - box[1]) / (box[3] - box[1]) * SIDE - 0.5, 0, SIDE - 1)
            weights = [np.maximum(1 - np.abs(at - np.arange(SIDE)), 0) for at in (row, column)]
            found[i, j] = weights[0] @ mask @ weights[1] >= 0.5
    return found


def rpn_losses(found, image, objects, positive, negative, matched):
    number = max((positive | negative).sum(), 1)
    entropy = cross_entropy(found["logits"][image], positive)
    target = encode(objects[0][matched], ANCHORS, np.ones(4))
    distance = smooth_l1(found["deltas"][image] - target, 1 / 9)
    return {
        "rpn_objectness": entropy[positive | negative].sum() / number,
        "rpn_boxes": distance[positive].sum() / number,
    }


def head_losses(found, image, objects, masks, chosen, masked):
    """Of RoIs ``(candidate, object or None)``, and of masks of some of those with an object."""
    boxes, labels, _ = objects
    classes = of_boxes = of_masks = 0.0
    for index, owner in chosen:
        logits = found["class_logits"][image, index]
        label = CLASSES if owner is None else labels[owner]
        classes += np.logaddexp.reduce(logits) - logits[label]
        if owner is None:
            continue
        roi = found["boxes"][image, index]
        target = encode(boxes[owner], roi, np.array([10, 10, 5, 5]))
        of_boxes += smooth_l1(found["box_deltas"][image, index, label] - target, 1.0)
        if index in masked:
            target = crop(masks[owner], boxes[owner], roi)
            of_masks += cross_entropy(found["masks"][image, index, label], target).mean()
    number = max(len(chosen), 1)
    return {
        "classes": classes / number,
        "boxes": of_boxes / number,
        "masks": of_masks / max(len(masked), 1),
        "positives": sum(owner is not None for _, owner in chosen),
    }


def objects_of(batch, image):
    return batch["boxes"][image].astype(float), batch["labels"][image], batch["crowd"][image]


def inside(batch, image):
    height, width = batch["size"][image]
    x1, y1, x2, y2 = ANCHORS.T
    return (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height)


def expected_losses(found, batch):
    """All parts of the loss of a batch in which every example is sampled, in float64."""
    total = dict.fromkeys((*PARTS, "positives"), 0.0)
    for image in range(2):
        objects = objects_of(batch, image)
        roles = assign(ANCHORS, inside(batch, image), objects, EVERY_ANCHOR)
        parts = rpn_losses(found, image, objects, *roles)
        single = (objects[1] >= 0) & ~objects[2]
        usable = np.concatenate([found["valid"][image], single])
        positive, negative, matched = assign(found["boxes"][image], usable, objects, EVERY_ROI)
        chosen = [(i, matched[i]) for i in np.flatnonzero(positive)]
        masked = {index for index, _ in chosen}
        chosen += [(i, None) for i in np.flatnonzero(negative)]
        parts |= head_losses(found, image, objects, batch["masks"][image], chosen, masked)
        for name, value in parts.items():
            total[name] += value
    return total


@pytest.mark.parametrize(
    "batch",
    [make_batch(4, 7), make_batch(0, 3), make_batch(6, 5, crowds=2), make_batch(300, 40)],
    ids=["objects", "an image without", "crowds", "300 objects"],
)
def test_losses_are_those_of_the_loops(loss, stages, batch):
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


def test_without_objects_there_is_background_alone(loss, stages):
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


def test_in_a_crowd_there_is_nothing_to_learn(loss):
    """Its region is the whole image: no example is background, and none an object."""
    batch = make_batch(1, 1, crowds=1)
    batch["boxes"][:, 0] = [0, 0, 64, 64]
    sums, gradient = loss(batch)
    assert sums.loss == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_objects_without_area_or_outside_the_image_give_finite_losses(loss):
    batch = make_batch(4, 4)
    batch["boxes"][:, 0] = [10, 10, 10, 30]
    batch["boxes"][:, 1] = [20, 20, 20, 20]
    batch["boxes"][:, 2] = [100, 100, 120, 130]
    sums, gradient = loss(batch)
    assert np.isfinite(sums.loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_objects_without_area_count_for_nothing(loss):
    batch = make_batch(6, 6)
    batch["boxes"][:, 0] = [10, 10, 10, 30]
    batch["boxes"][:, 1] = [20, 30, 40, 30]
    batch["boxes"][:, 2] = [20, 20, 20, 20]
    without = batch | {"labels": batch["labels"].copy()}
    without["labels"][:, :3] = -1
    found, expected = loss(batch)[0].metrics, loss(without)[0].metrics
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


def test_the_loss_does_not_depend_on_how_a_batch_is_shared(loss):
    """An image has the same share in it beside any other, in any place, with any key."""
    batch = make_batch(5, 8, crowds=1)

    def images(*chosen):
        return loss({name: x[list(chosen)] for name, x in batch.items()}, seed=sum(chosen))

    both, swapped, first, second = images(0, 1), images(1, 0), images(0, 0), images(1, 1)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, swapped, both)
    jax.tree.map(lambda a, b, c: close((a + b) / 2, c), first, second, both)


def test_neither_rows_nor_padding_matter(loss):
    batch = make_batch(5, 8, crowds=1)
    before, _ = loss(batch)
    order = np.random.default_rng(0).permutation(ROWS)
    rows = ("boxes", "labels", "crowd", "masks")
    moved = batch | {name: batch[name][:, order] for name in rows}
    moved["image"] = batch["image"].copy()
    moved["image"][1, 48:] = 200
    moved["image"][1, :, 60:] = 7
    # What is no object may be anything.
    nothing = moved["labels"] < 0
    moved["boxes"][nothing] = [3, 4, 30, 40]
    moved["crowd"][nothing] = True
    after, _ = loss(moved)
    for name, value in before.metrics.items():
        np.testing.assert_allclose(after.metrics[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.slow
def test_losses_of_a_sample(detector, stages):
    """With so few places that most examples are left out, masks for fewer still."""
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


@pytest.mark.slow
def test_gradients_reach_all_that_is_trained_and_nothing_else():
    model_config = DetectorConfig(
        backbone=ResNetConfig(18, norm="batch", width=2),
        frozen_stages=2,
        neck=FPNConfig(channels=4),
        anchors=CONFIG.anchors,
        training_proposals=CONFIG.training_proposals,
        box=dataclasses.replace(CONFIG.box, class_agnostic=True),
        masks=True,
        mask=CONFIG.mask,
    )
    model = Detector(model_config, CLASSES)
    variables = random_variables(model)
    function = make_loss_function(model, make_config(model_config))

    @jit
    def gradients(params, state, batch):
        def total(params):
            sums = function(params, state, batch, jax.random.key(0))
            return sums.loss, sums

        return jax.grad(total, has_aux=True)(params)

    before = {"batch_stats": variables["batch_stats"]}
    gradient, sums = gradients(variables["params"], before, make_batch(5, 8, crowds=1))
    assert np.isfinite(sums.loss)
    frozen = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        names = [key.key for key in path]
        assert np.isfinite(leaf).all(), names
        assert np.asarray(leaf).any() != is_frozen(names, model_config), names
        frozen.append(is_frozen(names, model_config))
    assert any(frozen)
    # Averages of trained norms alone have changed.
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), sums.model_state, before)
    for path, moved in jax.tree_util.tree_leaves_with_path(changed["batch_stats"]):
        names = [key.key for key in path]
        assert moved != is_frozen(names, model_config), names
