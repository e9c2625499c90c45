import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.config import BoxHeadConfig, DetectorConfig
from experiments.detection.model.detector import Detector, is_frozen, select
from experiments.detection.model.heads import BoxHead, MaskHead
from experiments.models.fpn import FPN
from experiments.models.fpn_config import FPNConfig
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import jit
from tests.experiments.detection.model.shallow import (
    CLASSES,
    CONFIG,
    PROPOSALS,
    Shallow,
    random_images,
    random_variables,
)

KEY = jax.random.key(0, impl="rbg")
SIZE = np.int32([48, 60])
COUNT = 12
FEW = BoxHeadConfig(score_threshold=0.1, iou_threshold=0.4, detections=7)
# More detections than candidates.
MANY = BoxHeadConfig(score_threshold=0.2, iou_threshold=0.4, detections=COUNT * CLASSES + 4)

run = jit(select, static_argnums=5)


def draw(seed, agnostic):
    """Logits, deltas and boxes of proposals, and which of them are valid."""
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(-5, 50, (COUNT, 2)), rng.uniform(12, 40, (COUNT, 2))
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    boxes[6:] = boxes[:6] + rng.uniform(-4, 4, (6, 4))
    logits = rng.normal(scale=2, size=(COUNT, CLASSES + 1)).astype(np.float32)
    deltas = rng.normal(size=(COUNT, 1 if agnostic else CLASSES, 4)).astype(np.float32)
    return logits, deltas, boxes, rng.random(COUNT) < 0.8


def refine(delta, box):
    width, height = box[2] - box[0], box[3] - box[1]
    x = box[0] + width / 2 + delta[0] / 10 * width
    y = box[1] + height / 2 + delta[1] / 10 * height
    width, height = width * np.exp(delta[2] / 5), height * np.exp(delta[3] / 5)
    box = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    return np.clip(box, 0, [SIZE[1], SIZE[0], SIZE[1], SIZE[0]])


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union > 0 else 0.0


def loop(logits, deltas, boxes, valid, config):
    """Detections ``(score, label, box)``, best first, by the plain algorithm in float64."""
    odds = np.exp(np.asarray(logits, np.float64))
    scores = odds / odds.sum(axis=1, keepdims=True)
    found = []
    for label in range(CLASSES):
        kept = []
        for i in sorted(range(COUNT), key=lambda i, label=label: -scores[i, label]):
            if not valid[i] or scores[i, label] <= config.score_threshold:
                continue
            delta = deltas[i, min(label, deltas.shape[1] - 1)]
            box = refine(delta.astype(float), boxes[i].astype(float))
            if min(box[2:] - box[:2]) < 0.01:
                continue
            if all(iou(box, other) <= config.iou_threshold for _, _, other in kept):
                kept.append((scores[i, label], label, box))
        found += kept
    return sorted(found, key=lambda each: -each[0])[: config.detections]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("config", [FEW, MANY])
@given(seed=st.integers(0, 2**32))
def test_selected_detections_agree_with_the_loops(config, agnostic, seed):
    logits, deltas, boxes, valid = draw(seed, agnostic)
    found = run(logits, deltas, boxes, valid, SIZE, config)
    expected = loop(logits, deltas, boxes, valid, config)
    count, room = len(expected), config.detections
    assert found["boxes"].shape == (room, 4)
    assert found["labels"].dtype == jnp.int32
    assert found["valid"].tolist() == [True] * count + [False] * (room - count)
    assert found["labels"][:count].tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found["scores"][:count], [s for s, _, _ in expected], rtol=1e-5)
    by_loop = np.array([box for _, _, box in expected]).reshape(-1, 4)
    np.testing.assert_allclose(found["boxes"][:count], by_loop, atol=1e-3)
    assert not np.asarray(found["scores"][count:]).any()
    assert not np.asarray(found["boxes"][count:]).any()


def test_random_inputs_reach_every_limit():
    """The property above is not trivial."""
    for config in (FEW, MANY):
        counts = [len(loop(*draw(seed, False), config)) for seed in range(20)]
        assert (max(counts) == FEW.detections) == (config is FEW)
        without = dataclasses.replace(config, iou_threshold=1.0, detections=100)
        assert sum(len(loop(*draw(s, False), without)) for s in range(20)) > sum(counts) + 10


def test_classes_do_not_suppress_one_another_and_of_equal_scores_the_first_comes_first():
    logits = np.float32([[1, 1, 0, 0], [1, 1, 0, 0]])
    boxes = np.float32([[5, 5, 25, 25], [5, 5, 25, 25]])
    config = BoxHeadConfig(score_threshold=0.2, detections=4)
    there = np.ones(2, bool)
    found = run(logits, np.zeros((2, 1, 4), np.float32), boxes, there, SIZE, config)
    assert found["valid"].tolist() == [True, True, False, False]
    assert found["labels"][:2].tolist() == [0, 1]
    assert found["scores"][0] == found["scores"][1]


def test_a_score_at_the_threshold_is_not_enough():
    logits, deltas = np.float32([[0, 0, 0, 0]]), np.zeros((1, 1, 4), np.float32)
    boxes, there = np.float32([[5, 5, 25, 25]]), np.ones(1, bool)
    for threshold, expected in ((0.2499, 3), (0.25, 0)):
        config = BoxHeadConfig(score_threshold=threshold, detections=4)
        assert run(logits, deltas, boxes, there, SIZE, config)["valid"].sum() == expected


def test_boxes_without_area_in_the_image_do_not_displace_others():
    """The deltas move 12 of 40 boxes out of the image, and make 4 boxes too thin."""
    number = np.arange(40)
    corners = np.stack([number % 8 * 7, number // 8 * 9], axis=1)
    boxes = np.concatenate([corners, corners + 6], axis=1).astype(np.float32)
    deltas = np.zeros((40, 1, 4), np.float32)
    deltas[:3, 0, 0], deltas[3:6, 0, 1] = -200, -200
    deltas[6:9, 0, 0], deltas[9:12, 0, 1] = 200, 200
    deltas[12:14, 0, 2], deltas[14:16, 0, 3] = -35, -35  # 6 pixels become 0.005
    # These boxes have the highest scores.
    logits = np.stack([5 - number / 10, np.zeros(40)], axis=1).astype(np.float32)
    config = BoxHeadConfig(score_threshold=0.01, detections=24)
    found = run(logits, deltas, boxes, np.ones(40, bool), SIZE, config)
    assert found["valid"].all()
    np.testing.assert_allclose(found["boxes"], boxes[16:], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "count"),
    [({"shortest_side": 1e-3}, 3), ({"shortest_side": 0.0}, 4), ({"shortest_side": None}, 5),
     ({"clamps_shrinking": True}, 5)],
)  # fmt: skip
def test_thin_boxes_are_dropped_below_the_shortest_side(options, count):
    boxes = np.float32([[10 * i, 0, 10 * i + 5, 10] for i in range(5)])
    deltas = np.zeros((5, 1, 4), np.float32)
    # The widths are 5, 0.02, 0.002, 0.0002 and 0; clamping leaves 5 / 62.5.
    deltas[1:, 0, 2] = [*5 * np.log([4e-3, 4e-4, 4e-5]), -1000]
    logits = np.stack([5 - np.arange(5) / 10, np.zeros(5)], axis=1).astype(np.float32)
    config = BoxHeadConfig(score_threshold=0.01, detections=6, **options)
    found = run(logits, deltas, boxes, np.ones(5, bool), SIZE, config)
    assert found["valid"].tolist() == [True] * count + [False] * (6 - count)
    if options.get("clamps_shrinking"):
        widths = found["boxes"][1:5, 2] - found["boxes"][1:5, 0]
        np.testing.assert_allclose(widths, [0.08] * 4, rtol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinite_boxes_are_dropped_even_if_empty_boxes_are_not(value):
    boxes, deltas = np.float32([[0, 0, 5, 10]] * 5), np.zeros((5, 1, 4), np.float32)
    deltas[:4, 0, 0] = value
    config = BoxHeadConfig(score_threshold=0.01, detections=6, shortest_side=None)
    found = run(np.zeros((5, 2), np.float32), deltas, boxes, np.ones(5, bool), SIZE, config)
    assert found["valid"].sum() == 1
    np.testing.assert_array_equal(found["boxes"][0], boxes[4])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shortest_side", [1e-2, None])
def test_boxes_and_scores_that_are_not_finite_are_dropped(value, shortest_side):
    logits, deltas = np.zeros((9, 4), np.float32), np.zeros((9, 3, 4), np.float32)
    corners = np.stack([np.arange(9) * 6, np.arange(9)], axis=1)
    boxes = np.concatenate([corners, corners + 6], axis=1).astype(np.float32)
    logits[:4] = np.where(np.eye(4, dtype=bool), value, 0)
    for side in range(4):
        deltas[4 + side, :, side] = value
    config = BoxHeadConfig(score_threshold=0.2, detections=27, shortest_side=shortest_side)
    found = run(logits, deltas, boxes, np.ones(9, bool), SIZE, config)
    there = np.asarray(found["valid"])
    for name in ("boxes", "scores"):
        assert np.isfinite(found[name]).all()
        assert not np.asarray(found[name])[~there].any()
    sides = np.asarray(found["boxes"])[there].reshape(-1, 2, 2)
    assert (sides[:, 1] - sides[:, 0] >= (shortest_side or 0)).all()
    assert {(8 * 6, 8, 8 * 6 + 6, 8 + 6)} <= {tuple(box) for box in found["boxes"].tolist()}


def test_without_proposals_there_are_no_detections():
    logits, deltas, boxes, valid = draw(0, False)
    found = run(logits, deltas, boxes, np.zeros_like(valid), SIZE, FEW)
    assert not any(np.asarray(found[name]).any() for name in ("boxes", "scores", "valid"))


@pytest.fixture(scope="module")
def shallow():
    model = Shallow(CONFIG, CLASSES)
    return model, random_variables(model)


def apply(model, method, *arguments):
    return jit(functools.partial(model.apply, method=method))(*arguments)


def constant_pyramid(values):
    """Maps with a constant value each, so that regions show the level that they read."""
    values = np.float32(values)[:, None] * np.float32([1, -1, 2, 0.5])
    return [
        np.broadcast_to(value, (1, 1024 // stride, 1024 // stride, 4)).astype(np.float32)
        for value, stride in zip(values, (4, 8, 16, 32, 64), strict=True)
    ]


def test_regions_are_read_from_the_level_for_their_size(shallow):
    """P2 below 112 pixels, then P3 and P4, and P5 from 448 pixels; P6 is for the RPN only."""
    model, variables = shallow
    sides = [20, 111, 112, 223, 224, 447, 448, 900]
    boxes = np.float32([[60, 50, 60 + side, 50 + side] for side in sides])[None]
    values = [1, 2, 3, 4, 100]
    pyramid = constant_pyramid(values)
    level = np.float32([1, 1, 2, 2, 3, 3, 4, 4])
    cells = level[:, None] * np.float32([1, -1, 2, 0.5])
    size = CONFIG.box.size
    regions = np.broadcast_to(cells[None, :, None, None], (1, 8, size, size, 4))
    params = variables["params"]
    head = BoxHead(CONFIG.box, CLASSES)
    expected = head.apply({"params": params["box_head"]}, regions)
    found = apply(model, "classify", variables, pyramid, boxes)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    size = CONFIG.mask.size
    regions = np.broadcast_to(cells[None, :, None, None], (1, 8, size, size, 4))
    every = MaskHead(CONFIG.mask, CLASSES).apply({"params": params["mask_head"]}, regions)
    labels = np.int32([[0, 1, 2, 0, 1, 2, 0, 1]])
    found = apply(model, "predict_masks", variables, pyramid, boxes, labels)
    assert found.shape == (1, 8, 2 * size, 2 * size)
    for index, label in enumerate(labels[0]):
        np.testing.assert_allclose(found[0, index], every[0, index, ..., label], rtol=1e-3)


def test_class_agnostic_masks():
    config = dataclasses.replace(CONFIG, mask=dataclasses.replace(CONFIG.mask, class_agnostic=True))
    model = Shallow(config, CLASSES)
    variables = random_variables(model)
    assert variables["params"]["mask_head"]["masks"]["kernel"].shape[-1] == 1
    boxes, labels = np.float32([[[0, 0, 30, 30]] * 2]), np.int32([[0, 2]])
    pyramid = [x[:, :16, :16] for x in constant_pyramid([1, 2, 3, 4, 5])]
    found = apply(model, "predict_masks", variables, pyramid, boxes, labels)
    assert found.shape == (1, 2, 4, 4)
    np.testing.assert_array_equal(found[0, 0], found[0, 1])


@pytest.mark.slow
def test_scores_are_nan_if_a_head_overflows(shallow):
    model, variables = shallow
    sizes = np.int32([[64, 64], [64, 64]])
    image = normalize(jnp.asarray(random_images()), InputConfig(), jnp.asarray(sizes))
    detect = jit(model.apply)
    found = detect(variables, image, sizes)
    assert np.isfinite(found["scores"]).all()
    assert found["valid"].any()
    broken = detect(variables, image.at[1].mul(1e30), sizes)["scores"]
    np.testing.assert_array_equal(broken[0], found["scores"][0])
    assert np.isnan(broken[1]).all()


@pytest.mark.slow
def test_the_call_equals_the_stages_in_sequence(shallow):
    """The stages are proposals, box head, selection, and masks of the selected boxes."""
    model, variables = shallow
    sizes = np.int32([[64, 64], [48, 60]])
    image = normalize(jnp.asarray(random_images()), InputConfig(), jnp.asarray(sizes))

    def by_stages(model, image, sizes):
        pyramid = model.features(image)
        proposals, valid = model.propose(
            *model.score_anchors(pyramid), sizes, model.config.proposals
        )
        logits, deltas = model.classify(pyramid, proposals)
        one = functools.partial(select, config=model.config.box)
        found = jax.vmap(one)(logits, deltas, proposals, valid, sizes)
        masks = model.predict_masks(pyramid, found["boxes"], found["labels"])
        return {**found, "masks": 1 / (1 + jnp.exp(-masks))}, proposals

    found = jit(model.apply)(variables, image, sizes)
    expected, proposals = jit(functools.partial(model.apply, method=by_stages))(
        variables, image, sizes
    )
    assert proposals.shape == (2, PROPOSALS, 4)
    assert found.keys() == {"boxes", "scores", "labels", "valid", "masks"}
    assert found["masks"].shape == (2, 10, 4, 4)
    assert found["valid"].any(axis=1).all()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-3)
    assert (np.diff(found["scores"], axis=1) <= 0).all()
    limits = sizes[:, None, ::-1]
    assert (np.asarray(found["boxes"])[..., 2:] <= limits).all()


TINY = DetectorConfig(
    backbone=ResNetConfig(18, norm="frozen", width=2),
    neck=FPNConfig(channels=4),
    training_proposals=CONFIG.training_proposals,
    proposals=CONFIG.proposals,
    box=CONFIG.box,
    masks=True,
    mask=CONFIG.mask,
)


@pytest.mark.parametrize("masks", [False, True])
def test_layers_creates_all_parameters_that_the_call_needs(masks):
    """In bfloat16, too, parameters and results are float32, and labels are integers."""
    model = Detector(dataclasses.replace(TINY, masks=masks), CLASSES, dtype=jnp.bfloat16)
    image, size = jnp.zeros((1, 64, 64, 3)), jnp.array([[64, 64]])
    found, variables = jax.eval_shape(lambda: model.init_with_output(KEY, image, size))
    layers = jax.eval_shape(lambda: model.init(KEY, image, method="layers"))
    assert variables == layers
    assert set(variables["params"]) == {"backbone", "neck", "rpn", "box_head"} | (
        {"mask_head"} if masks else set()
    )
    assert ("masks" in found) == masks
    exact = {"labels": "int32", "valid": "bool"}
    assert all(leaf.dtype == exact.get(name, "float32") for name, leaf in found.items())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_features_are_the_feature_pyramid_of_the_backbone():
    model = Detector(TINY, CLASSES)
    variables = random_variables(model)
    image = jnp.asarray(random_images() / 255, jnp.float32)
    found = jit(functools.partial(model.apply, method="features"))(variables, image)

    def by_parts(variables, image):
        backbone = {name: tree["backbone"] for name, tree in variables.items()}
        maps = ResNet(TINY.backbone, None).apply(backbone, image, method="features")
        return FPN(TINY.neck).apply({"params": variables["params"]["neck"]}, maps)

    expected = jit(by_parts)(variables, image)
    assert [level.shape[1] for level in found] == [16, 8, 4, 2, 1]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def parameters(config, num_classes):
    """Numbers of parameters by top-level module, without computing them."""
    model = Detector(config, num_classes)
    image = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda: model.init(KEY, image, method="layers"))["params"]
    return {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()}


def test_numbers_of_parameters_equal_torchvisions():
    """torchvision's Faster and Mask R-CNN, ResNet-50-FPN, have 41,755,286 and 44,401,393.

    Their 91 classes include the background, for which they also predict boxes and masks. The 53,120
    values of the norms are not parameters in torchvision.
    """
    found = parameters(DetectorConfig(masks=True), num_classes=90)
    mask_head = found.pop("mask_head")
    norms, boxes, masks = 53_120, 4 * (1024 + 1), 256 + 1
    assert sum(found.values()) == 41_755_286 + norms - boxes
    assert mask_head == 44_401_393 - 41_755_286 - masks
    assert found["backbone"] == 23_454_912 + norms
    assert found["neck"] == 3_344_384
    assert found["rpn"] == 593_935
    assert found["box_head"] == 13_895_680 + 1025 * (91 + 4 * 90)


@pytest.mark.parametrize("frozen_stages", [0, 1, 4])
def test_frozen_parameters_are_in_the_backbone(frozen_stages):
    config = DetectorConfig(frozen_stages=frozen_stages)
    for path in (("neck", "lateral_2"), ("rpn", "conv"), ("box_head", "fc1"), ("mask_head", "x")):
        assert not is_frozen((*path, "kernel"), config)
    for path, stages in {"conv1": 1, "bn1": 1, "layer1_0": 1, "layer2_0": 2, "layer4_2": 4}.items():
        assert is_frozen(("backbone", path, "kernel"), config) == (frozen_stages >= stages)
