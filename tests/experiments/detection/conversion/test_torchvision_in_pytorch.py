"""A converted Mask R-CNN of torchvision computes the same as torchvision, stage by stage."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.coco import OFFICIAL_IDS
from experiments.detection.model.boxes import pairwise_iou
from tests.experiments.detection.conversion.in_pytorch import (
    converted,
    error,
    first,
    image,
    jitted,
    last,
    randomise_norms,
    scale,
    torch,
)

pytestmark = pytest.mark.torch

# The padded input, in which P6 has a distance of 53 rows, and the image in it.
HEIGHT, WIDTH = 160, 192
SIZE = (150, 181)
# In standard deviations of the outputs; the largest difference that was seen is 5e-6.
TOLERANCE = 5e-5
UNUSED = [row for row in range(91) if row not in {0, *OFFICIAL_IDS}]


@pytest.fixture(scope="module")
def x():
    padded = image(HEIGHT, WIDTH)
    padded[:, SIZE[0] :] = 0
    padded[:, :, SIZE[1] :] = 0
    return padded


@pytest.fixture(scope="module")
def images(x):
    """The input as torchvision's own transform would pass it on."""
    module = importlib.import_module("torchvision.models.detection.image_list")
    return module.ImageList(first(x), [SIZE])


@pytest.fixture(scope="module")
def theirs(images):
    """torchvision's network with random weights, which detects about a hundred objects."""
    torch().manual_seed(0)
    detection = importlib.import_module("torchvision.models.detection")
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()
    randomise_norms(model)
    with torch().no_grad():
        pyramid = model.backbone(images.tensors)
        head, heads = model.rpn.head, model.roi_heads
        logits, deltas = head(list(pyramid.values()))
        scale(head.cls_logits, logits[0], 2.0)
        scale(head.bbox_pred, deltas[0], 0.2)
        proposals, _ = model.rpn(images, pyramid)
        regions = heads.box_roi_pool(pyramid, proposals, [SIZE])
        logits, deltas = heads.box_predictor(heads.box_head(regions))
        scale(heads.box_predictor.cls_score, logits, 3.0)
        scale(heads.box_predictor.bbox_pred, deltas, 0.5)
        heads.box_predictor.cls_score.bias[UNUSED] = -100.0  # as after training
        regions = heads.mask_roi_pool(pyramid, [proposals[0][:20]], [SIZE])
        masks = heads.mask_predictor(heads.mask_head(regions))
        scale(heads.mask_predictor.mask_fcn_logits, masks, 2.0)
    return model


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    return converted(theirs, tmp_path_factory.mktemp("torchvision"))


@pytest.fixture(scope="module")
def pyramid(theirs, images):
    with torch().no_grad():
        return theirs.backbone(images.tensors)


@pytest.fixture(scope="module")
def proposals(theirs, images, pyramid):
    with torch().no_grad():
        (boxes,), _ = theirs.rpn(images, pyramid)
    assert len(boxes) > 200
    return boxes.numpy()


@pytest.fixture(scope="module")
def our_pyramid(pyramid):
    """torchvision's pyramid, so that a stage has the same inputs."""
    return tuple(last(level) for level in pyramid.values())


def test_backbone(theirs, ours, images, x):
    model, variables, _ = ours
    with torch().no_grad():
        expected = theirs.backbone.body(images.tensors)
    found = jitted(model, lambda module, x: module.backbone.features(x))(variables, x)
    for level, wanted in zip(found, expected.values(), strict=True):
        assert error(level, last(wanted)) < TOLERANCE


def test_pyramid(ours, our_pyramid, x):
    model, variables, _ = ours
    found = jitted(model, "features")(variables, x)
    for level, wanted in zip(found, our_pyramid, strict=True):
        assert error(level, wanted) < TOLERANCE


def test_logits_and_deltas_of_anchors_and_anchors(theirs, ours, images, pyramid, our_pyramid):
    model, variables, _ = ours
    found = jitted(model, lambda module, p: module.score_anchors(p, (HEIGHT, WIDTH)))(
        variables, our_pyramid
    )
    with torch().no_grad():
        expected = theirs.rpn.head(list(pyramid.values()))
        (anchors,) = theirs.rpn.anchor_generator(images, list(pyramid.values()))
    for logits, wanted in zip(found[0], expected[0], strict=True):
        assert error(logits, last(wanted).reshape(1, -1)) < TOLERANCE
    for deltas, wanted in zip(found[1], expected[1], strict=True):
        assert error(deltas, last(wanted).reshape(1, -1, 4)) < TOLERANCE
    np.testing.assert_array_equal(np.concatenate(found[2]), anchors)


def closest(found, expected):
    """For each expected box the index of the found box with the highest IoU, above 0.99."""
    overlaps = np.asarray(pairwise_iou(jnp.asarray(found), jnp.asarray(expected)))
    assert (overlaps.max(0) > 0.99).all()
    return overlaps.argmax(0)


def test_proposals(theirs, ours, our_pyramid, proposals):
    model, variables, config = ours

    def propose(module, pyramid, size):
        logits, deltas, anchors = module.score_anchors(pyramid, (HEIGHT, WIDTH))
        return module.propose(logits, deltas, anchors, size, config.model.proposals)

    boxes, valid = jitted(model, propose)(variables, our_pyramid, np.array([SIZE]))
    found = np.asarray(boxes[0])[np.asarray(valid[0])]
    assert len(found) == len(proposals)
    pairs = closest(found, proposals)
    assert len({*pairs}) == len(found)
    np.testing.assert_allclose(found[pairs], proposals, atol=1e-2)


def test_logits_and_deltas_of_regions(theirs, ours, pyramid, our_pyramid, proposals):
    model, variables, _ = ours
    boxes = torch().from_numpy(proposals)
    heads = theirs.roi_heads
    with torch().no_grad():
        regions = heads.box_roi_pool(pyramid, [boxes], [SIZE])
        logits, deltas = heads.box_predictor(heads.box_head(regions))
    sample = jitted(model, lambda module, pyramid, boxes: module.sample_regions(pyramid, boxes, 7))
    assert error(sample(variables, our_pyramid, proposals[None])[0], last(regions)) < TOLERANCE
    found, moved = jitted(model, "classify")(variables, our_pyramid, proposals[None])
    rows = [*OFFICIAL_IDS, 0]
    assert error(found[0], logits.numpy()[:, rows]) < TOLERANCE
    expected = deltas.numpy().reshape(-1, 91, 4)[:, [*OFFICIAL_IDS]]
    assert error(moved[0], expected) < TOLERANCE


def test_logits_of_masks(theirs, ours, pyramid, our_pyramid, proposals):
    model, variables, _ = ours
    boxes, labels = proposals[:40], np.arange(40) * 2 + 1
    heads = theirs.roi_heads
    with torch().no_grad():
        regions = heads.mask_roi_pool(pyramid, [torch().from_numpy(boxes)], [SIZE])
        logits = heads.mask_predictor(heads.mask_head(regions)).numpy()
    expected = logits[np.arange(40), np.array(OFFICIAL_IDS)[labels]]
    found = jitted(model, "predict_masks")(variables, our_pyramid, boxes[None], labels[None])
    assert error(found[0], expected) < TOLERANCE


def test_detections(theirs, ours, images, pyramid, x):
    model, variables, _ = ours
    with torch().no_grad():
        proposals, _ = theirs.rpn(images, pyramid)
        (expected,), _ = theirs.roi_heads(pyramid, proposals, [SIZE])
    expected = {name: each.numpy() for name, each in expected.items()}
    assert len(expected["scores"]) > 50
    detections = jitted(model, "__call__")(variables, x, np.array([SIZE]))
    valid = np.asarray(detections["valid"][0])
    found = {name: np.asarray(each[0])[valid] for name, each in detections.items()}
    assert len(found["scores"]) == len(expected["scores"])
    labels = np.array(OFFICIAL_IDS)[found["labels"]]
    # The order can differ where scores are equal up to rounding.
    for label in {*expected["labels"]}:
        of_class = expected["labels"] == label
        own = np.flatnonzero(labels == label)
        assert len(own) == of_class.sum()
        pairs = own[closest(found["boxes"][own], expected["boxes"][of_class])]
        assert len({*pairs}) == len(own)
        np.testing.assert_allclose(found["boxes"][pairs], expected["boxes"][of_class], atol=1e-2)
        np.testing.assert_allclose(found["scores"][pairs], expected["scores"][of_class], atol=1e-4)
        np.testing.assert_allclose(found["masks"][pairs], expected["masks"][of_class, 0], atol=1e-4)
