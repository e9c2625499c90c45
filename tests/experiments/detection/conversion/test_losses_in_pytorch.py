"""Losses and gradients of a converted detector against torchvision's own functions.

Conventions that differ, and what the tests do about them:

- Smooth L1 of the box head changes from quadratic to linear at a difference of 1 here, and of 1/9
  in torchvision. A large difference ``d`` has the loss ``d - 1/2`` here and ``d - 1/18`` there. The
  test of gradients gives torchvision the same function.
- Only anchors inside the image are examples here. torchvision uses other anchors too. The sampler
  that the tests give to torchvision leaves them out.
- Mask targets are 0 or 1 here, and means of bins in torchvision. The test has full masks.
- Losses of several images are averaged over the images here, and over the samples of all images in
  torchvision. Both are equal if all images have the same number of samples. The tests have one
  image.
"""

import dataclasses
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.coco import OFFICIAL_IDS
from experiments.detection import losses
from experiments.detection.conversion.layouts import layout
from experiments.detection.model.sampling import Objects, Sample
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize
from tests.experiments.detection.conversion.in_pytorch import (
    converted,
    error,
    first,
    randomise_norms,
    scale,
    torch,
)

pytestmark = pytest.mark.torch

HEIGHT, WIDTH = 128, 160
KEPT = 200  # proposals in training
BOXES = np.float32([[10, 12, 60, 70], [64, 20, 140, 110], [100, 90, 124, 126], [0, 60, 40, 128]])
LABELS = np.int32([0, 17, 79, 41])
SIZE = (HEIGHT, WIDTH)


class EveryExample:
    """A sampler for torchvision that takes every example, or every example of a set."""

    def __init__(self, usable=True):
        self.usable = usable

    def __call__(self, labels):
        positive = [((each >= 1) & self.usable).long() for each in labels]
        negative = [((each == 0) & self.usable).long() for each in labels]
        return positive, negative


def roi_heads_module():
    return importlib.import_module("torchvision.models.detection.roi_heads")


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def images(pixels):
    module = importlib.import_module("torchvision.models.detection.image_list")
    return module.ImageList(first(normalize(pixels, InputConfig())), [SIZE])


@pytest.fixture(scope="module")
def theirs(images):
    """A random Faster R-CNN of torchvision, trained like ours: norms and two stages are frozen."""
    torch().manual_seed(0)
    detection = importlib.import_module("torchvision.models.detection")
    model = detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        rpn_post_nms_top_n_train=KEPT,
        rpn_fg_iou_thresh=0.5,
    ).eval()
    randomise_norms(model)
    heads = model.roi_heads
    with torch().no_grad():
        pyramid = model.backbone(images.tensors)
        logits, deltas = model.rpn.head(list(pyramid.values()))
        scale(model.rpn.head.cls_logits, logits[0], 1.0)
        scale(model.rpn.head.bbox_pred, deltas[0], 0.1)
        proposals, _ = model.rpn(images, pyramid)
        regions = heads.box_roi_pool(pyramid, proposals, [SIZE])
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        scale(heads.box_predictor.cls_score, logits, 1.0)
        scale(heads.box_predictor.bbox_pred, deltas, 1.0)
        unused = [row for row in range(91) if row not in {0, *OFFICIAL_IDS}]
        heads.box_predictor.cls_score.bias[unused] = -100.0  # as after training
        (anchors,) = model.rpn.anchor_generator(images, list(pyramid.values()))
        limits = torch().tensor([WIDTH, HEIGHT])
        inside = ((anchors[:, :2] >= 0) & (anchors[:, 2:] <= limits)).all(1)
    # An object's best anchor may be beyond the image, where ours has no example.
    model.rpn.proposal_matcher.allow_low_quality_matches = False
    model.rpn.fg_bg_sampler = EveryExample(inside)
    heads.fg_bg_sampler = EveryExample()
    body = model.backbone.body
    body.conv1.requires_grad_(False)
    body.layer1.requires_grad_(False)
    for module in body.modules():
        if isinstance(module, torch().nn.BatchNorm2d):
            module.requires_grad_(False)
    model.rpn.train()
    heads.train()
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    """The converted detector, with samplers that take every example."""
    model, variables, config = converted(theirs, tmp_path_factory.mktemp("weights"))
    of_training = dataclasses.replace(config.model.training_proposals, kept=KEPT)
    sampler = {"positives": 0.5, "best_for_each": False, "positive_iou": 0.5}
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, training_proposals=of_training),
        anchor_sampler=dataclasses.replace(config.anchor_sampler, count=12_000, **sampler),
        proposal_sampler=dataclasses.replace(
            config.proposal_sampler, count=2 * (KEPT + len(BOXES)), **sampler
        ),
    )
    return model.clone(config=config.model), variables, config


@pytest.fixture(scope="module")
def our_terms(ours, pixels):
    """The terms of our loss, and its gradient."""
    model, variables, config = ours
    function = losses.make_loss_function(model, config)
    batch = {
        "image": pixels,
        "size": np.int32([SIZE]),
        "boxes": BOXES[None],
        "labels": LABELS[None],
        "crowd": np.zeros((1, len(BOXES)), bool),
    }
    params, statistics = variables["params"], {"batch_stats": variables["batch_stats"]}

    @jax.jit
    def run(params):
        def total(params):
            sums = function(params, statistics, batch, jax.random.key(0))
            return sums.loss, sums

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, sums), gradient = run(params)
    return {name: float(value) for name, value in sums.metrics.items()}, gradient


def their_terms(theirs, images):
    model = theirs
    ids = torch().tensor(np.array(OFFICIAL_IDS)[LABELS])
    targets = [{"boxes": torch().from_numpy(BOXES), "labels": ids}]
    pyramid = model.backbone(images.tensors)
    proposals, of_rpn = model.rpn(images, pyramid, targets)
    _, of_heads = model.roi_heads(pyramid, proposals, [SIZE], targets)
    return of_rpn | of_heads


NAMES = {
    "rpn_objectness": "loss_objectness",
    "rpn_boxes": "loss_rpn_box_reg",
    "classes": "loss_classifier",
}


def test_losses_of_anchors_and_classes_equal_torchvisions(theirs, images, our_terms):
    with torch().no_grad():
        expected = their_terms(theirs, images)
    found, _ = our_terms
    assert found["positives"] > 10
    for name, theirs_name in NAMES.items():
        assert found[name] > 0.01
        np.testing.assert_allclose(found[name], expected[theirs_name], rtol=1e-4)
    # Both average over the samples, but torchvision's smooth L1 is linear from 1/9 on.
    assert 1 < expected["loss_box_reg"] / found["boxes"] < 9


def with_our_smooth_l1(logits, deltas, labels, targets):
    """torchvision's ``fastrcnn_loss`` with a smooth L1 that is quadratic up to 1."""
    functional = torch().nn.functional
    labels, targets = torch().cat(labels), torch().cat(targets)
    positive = torch().where(labels > 0)[0]
    chosen = deltas.reshape(len(labels), -1, 4)[positive, labels[positive]]
    distance = functional.smooth_l1_loss(chosen, targets[positive], beta=1.0, reduction="sum")
    return functional.cross_entropy(logits, labels), distance / labels.numel()


def test_a_step_of_sgd_changes_the_weights_as_in_pytorch(
    theirs, images, ours, our_terms, monkeypatch
):
    monkeypatch.setattr(roi_heads_module(), "fastrcnn_loss", with_our_smooth_l1)
    expected = their_terms(theirs, images)
    found, gradient = our_terms
    np.testing.assert_allclose(found["boxes"], expected["loss_box_reg"].item(), rtol=1e-4)
    before = {name: each.detach().clone() for name, each in theirs.named_parameters()}
    optimizer = torch().optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=1.0)
    sum(expected.values()).backward()
    optimizer.step()
    changes = {
        name: (before[name] - each.detach()).numpy() for name, each in theirs.named_parameters()
    }
    _, _, config = ours
    source = layout("torchvision", config.model).source
    worst, moved = 0.0, 0
    for keys, leaf in jax.tree_util.tree_flatten_with_path(gradient)[0]:
        path = ("params", *(key.key for key in keys))
        of_file = source(path)
        change = of_file.arrangement.to_model(changes[of_file.name])
        if not change.any():
            assert not np.asarray(leaf).any()
            continue
        moved += 1
        worst = max(worst, error(leaf, change))
    # All but the outputs for P4 and P5, where no anchor is inside the image and no region is large.
    assert moved == 42 + 12 + 6 + 8
    assert worst < 5e-4  # 4e-5 was seen


def test_the_loss_of_masks_equals_torchvisions_where_targets_are_equal():
    """Regions within one object of a full mask: all targets are 1."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 28, 28, 91), np.float32)
    corners, sides = rng.uniform(5, 40, (6, 2)), rng.uniform(10, 50, (6, 2))
    regions = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    ids = np.array(OFFICIAL_IDS)[[3]]
    expected = roi_heads_module().maskrcnn_loss(
        first(logits),
        [torch().from_numpy(regions)],
        [torch().ones(1, HEIGHT, WIDTH, dtype=torch().uint8)],
        [torch().from_numpy(ids)],
        [torch().zeros(6, dtype=torch().int64)],
    )

    class Masks(nn.Module):
        def predict_masks(self, pyramid, boxes, labels):
            del pyramid, boxes
            found = jnp.asarray(logits[..., [*OFFICIAL_IDS]])
            return jnp.take_along_axis(found, labels[0][:, None, None, None], axis=-1)[None, ..., 0]

    objects = Objects(
        jnp.float32([[[0, 0, WIDTH, HEIGHT]]]), jnp.int32([[3]]), jnp.zeros((1, 1), bool)
    )
    every = jnp.ones((1, 6), bool)
    zeros = jnp.zeros((1, 6), jnp.int32)
    found = losses.mask_losses(
        Masks(),
        None,
        jnp.ones((1, 1, 56, 56)),
        objects,
        jnp.asarray(regions)[None],
        Sample(zeros, zeros, every, every),
        6,
    )
    np.testing.assert_allclose(found[0], expected.item(), rtol=1e-5)
