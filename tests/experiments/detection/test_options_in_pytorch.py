"""Compares the options of a detector with torchvision."""

import importlib

import jax
import numpy as np
import pytest

from experiments.detection.configs import DetectionConfig
from experiments.detection.conventions import with_convention
from experiments.detection.data.config import DataConfig
from experiments.detection.data.images import is_portrait, resized_size
from experiments.detection.model.anchors import pyramid_anchors
from experiments.detection.model.config import DetectorConfig
from experiments.detection.model.detector import select
from experiments.detection.model.roi_align import assign_levels, roi_align
from experiments.detection.model.rpn import propose

STRIDES = (4, 8, 16, 32)
MODEL = with_convention(DetectionConfig(), "torchvision").model


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def detection():
    """A random torchvision detector, without pretrained weights."""
    models = importlib.import_module("torchvision.models.detection")
    return models.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()


@pytest.mark.torch
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [7, 14])
def test_roi_align_and_its_gradient_equal_torchvisions(size, ratio, aligned, torch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 25, 42, 3)).astype(np.float32)
    corners, sides = rng.uniform(-60, 700, (2, 40, 2)), np.exp(rng.uniform(-2, 6.5, (2, 40, 2)))
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    boxes[:, 0] = [0, 0, 672, 400]
    boxes[:, 1] = [100, 0, 100, 400]  # empty
    boxes[:, 2] = [3, 200, 670, 203]  # long and thin
    boxes[:, 3] = [-1000, -1000, 3000, 3000]
    cotangent = rng.normal(size=(2, 40, size, size, 3)).astype(np.float32)
    levels = np.zeros((2, 40), np.int32)

    @jax.jit
    def run(x):
        y, pullback = jax.vjp(
            lambda x: roi_align([x], (16,), boxes, levels, size, ratio, aligned), x
        )
        return y, *pullback(cotangent)

    theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
    expected = importlib.import_module("torchvision.ops").roi_align(
        theirs, list(torch.from_numpy(boxes)), size, 1 / 16, ratio, aligned
    )
    expected.backward(torch.from_numpy(cotangent.reshape(80, size, size, 3).transpose(0, 3, 1, 2)))
    found, gradient = run(x)
    values = expected.detach().numpy().transpose(0, 2, 3, 1).reshape(found.shape)
    assert np.abs(values).mean() > 0.1
    np.testing.assert_allclose(found, values, atol=1e-4)
    theirs = theirs.grad.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.torch
@pytest.mark.parametrize("size", [(800, 1344), (800, 1088), (352, 480), (64, 96)])
def test_anchors_equal_torchvisions(size, torch, detection):
    maps, shapes = [], []
    for level in range(5):
        shapes.append(tuple(-(-side // 2 ** (level + 2)) for side in size))
        maps.append(torch.zeros(1, 1, *shapes[-1]))
    images = importlib.import_module("torchvision.models.detection.image_list")
    given = images.ImageList(torch.zeros(1, 3, *size), [size])
    (expected,) = detection.rpn.anchor_generator(given, maps)
    found = np.concatenate(pyramid_anchors(shapes, MODEL.anchors, size))
    np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.torch
def test_levels_equal_torchvisions(torch):
    poolers = importlib.import_module("torchvision.ops.poolers")
    rng = np.random.default_rng(0)
    corners, sides = rng.uniform(0, 800, (5000, 2)), np.exp(rng.uniform(0, 7, (5000, 2)))
    sides[:600] = np.repeat([[112.0], [224.0], [448.0]], 200, axis=0)
    corners[:600] = corners[:600].round()
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    expected = poolers.initLevelMapper(2, 5)([torch.from_numpy(boxes)])
    np.testing.assert_array_equal(assign_levels(boxes), expected)


@pytest.mark.torch
def test_sizes_of_images_equal_torchvisions(torch, detection):
    config = with_convention(DetectionConfig(), "torchvision").data
    rng = np.random.default_rng(0)
    for size in [(480, 640), (427, 640), (640, 427), *rng.integers(60, 700, (60, 2)).tolist()]:
        images, _ = detection.transform([torch.zeros(3, *size)])
        found = resized_size(*size, config, is_portrait(*size))
        assert images.image_sizes == [found]
        padded = tuple(-(-side // config.pad_multiple) * config.pad_multiple for side in found)
        assert tuple(images.tensors.shape[2:]) == padded


@pytest.mark.torch
def test_proposals_equal_torchvisions(torch, detection):
    rng = np.random.default_rng(0)
    padded, size = (192, 256), (161, 200)
    shapes = [tuple(-(-side // stride) for side in padded) for stride in (*STRIDES, 64)]
    anchors = pyramid_anchors(shapes, MODEL.anchors, padded)
    logits = [rng.normal(size=len(level)).astype(np.float32) for level in anchors]
    deltas = [rng.normal(scale=1.5, size=level.shape).astype(np.float32) for level in anchors]
    for level in deltas:
        level[::3, 2:] -= 9  # thin boxes
        level[1::40, 2:] = 10
    boxes, valid = jax.jit(propose, static_argnums=4)(
        logits, deltas, anchors, np.int32(size), MODEL.proposals
    )
    rpn = detection.rpn
    tensors = [torch.from_numpy(np.concatenate(each)) for each in (deltas, anchors, logits)]
    decoded = rpn.box_coder.decode(tensors[0], [tensors[1]]).reshape(1, -1, 4)
    (expected,), _ = rpn.filter_proposals(
        decoded, tensors[2][None, :, None], [size], [len(level) for level in logits]
    )
    assert 200 < len(expected) < MODEL.proposals.kept
    assert valid.sum() == len(expected)
    sides = np.asarray(boxes[:, 2:] - boxes[:, :2])[np.asarray(valid)]
    assert (sides < 1e-2).any()  # some are shorter than the default allows
    np.testing.assert_allclose(boxes[: len(expected)], expected, atol=1e-3)


@pytest.mark.torch
def test_detections_equal_torchvisions(torch, detection):
    rng = np.random.default_rng(0)
    classes, count, size = 90, 300, (161, 200)
    corners, sides = rng.uniform(0, 150, (count, 2)), np.exp(rng.uniform(-6, 4, (count, 2)))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    logits = rng.normal(scale=4, size=(count, classes + 1)).astype(np.float32)
    deltas = rng.normal(scale=3, size=(count, classes + 1, 4)).astype(np.float32)
    roi_heads = detection.roi_heads
    tensors = [torch.from_numpy(each) for each in (logits, deltas.reshape(count, -1), boxes)]
    (expected,), (scores,), (labels,) = roi_heads.postprocess_detections(
        *tensors[:2], [tensors[2]], [size]
    )
    assert len(expected) == 100
    # torchvision has the background first, this project last.
    found = jax.jit(select, static_argnums=5)(
        np.roll(logits, -1, axis=1), deltas[:, 1:], boxes, np.ones(count, bool), np.int32(size),
        MODEL.box,
    )  # fmt: skip
    assert found["valid"].all()
    np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
    np.testing.assert_array_equal(found["labels"] + 1, labels)
    np.testing.assert_allclose(found["boxes"], expected, atol=1e-3)


@pytest.mark.torch
def test_numbers_of_proposals_and_detections_and_thresholds_are_torchvisions(detection):
    rpn, heads = detection.rpn, detection.roi_heads
    for config, mode in ((MODEL.training_proposals, "training"), (MODEL.proposals, "testing")):
        assert config.per_level == rpn._pre_nms_top_n[mode]
        assert config.kept == rpn._post_nms_top_n[mode]
        assert config.iou_threshold == rpn.nms_thresh
        assert config.shortest_side == rpn.min_size
    assert MODEL.box.score_threshold == heads.score_thresh
    assert MODEL.box.iou_threshold == heads.nms_thresh
    assert MODEL.box.detections == heads.detections_per_img
    assert MODEL.roi_align.sampling_ratio == heads.box_roi_pool.sampling_ratio
    data, transform = DataConfig(), detection.transform
    assert (data.shorter, data.longer) == (*transform.min_size, transform.max_size)
    assert data.pad_multiple == transform.size_divisible
    statistics = MODEL.backbone.input
    np.testing.assert_allclose(np.divide(statistics.mean, 255), transform.image_mean)
    np.testing.assert_allclose(np.divide(statistics.std, 255), transform.image_std)
    assert DetectorConfig().anchors.strides == (*STRIDES, 64)
