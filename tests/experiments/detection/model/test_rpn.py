import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.detection.model.anchors import AnchorConfig, pyramid_anchors
from experiments.detection.model.config import ProposalConfig
from experiments.detection.model.rpn import RPNHead, propose
from experiments.engine.tables.cost import cost
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables

KEY = jax.random.key(0, impl="rbg")
LEVELS = (30, 9, 2)
# The second level has fewer than 12 boxes.
SOME = ProposalConfig(per_level=12, kept=8, iou_threshold=0.5)
# All three levels together have fewer than 26 candidates.
MANY = ProposalConfig(per_level=12, kept=26, iou_threshold=0.7)
SIZE = np.int32([48, 60])

run = jit(propose, static_argnums=4)


@functools.partial(jit, static_argnums=4)
def run_batch(logits, deltas, anchors, sizes, config):
    one = functools.partial(propose, config=config)
    return jax.vmap(one, in_axes=(0, 0, None, 0))(logits, deltas, anchors, sizes)


def draw(seed):
    """Logits, deltas and anchors of three levels; some boxes extend beyond the image."""
    rng = np.random.default_rng(seed)
    logits, deltas, anchors = [], [], []
    for count in LEVELS:
        corners, sides = rng.uniform(-20, 60, (count, 2)), rng.uniform(4, 40, (count, 2))
        anchors.append(np.concatenate([corners, corners + sides], axis=1).astype(np.float32))
        logits.append(rng.normal(size=count).astype(np.float32))
        deltas.append(rng.normal(scale=0.5, size=(count, 4)).astype(np.float32))
    return logits, deltas, anchors


def decode(delta, anchor):
    width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
    x = anchor[0] + width / 2 + delta[0] * width
    y = anchor[1] + height / 2 + delta[1] * height
    width, height = width * np.exp(delta[2]), height * np.exp(delta[3])
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


def loop(logits, deltas, anchors, size, config):
    """The plain algorithm, in float64."""
    found = []
    for level in range(len(logits)):
        centres = (anchors[level][:, :2] + anchors[level][:, 2:]) / 2
        there = [i for i, (x, y) in enumerate(centres) if x < size[1] and y < size[0]]
        order = sorted(there, key=lambda i, of=logits[level]: -of[i])
        kept = []
        for i in order[: config.per_level]:
            box = decode(deltas[level][i].astype(float), anchors[level][i].astype(float))
            box = np.clip(box, 0, [size[1], size[0], size[1], size[0]])
            if min(box[2:] - box[:2]) < 0.01:
                continue
            if all(iou(box, other) <= config.iou_threshold for _, other in kept):
                kept.append((logits[level][i], box))
        found += kept
    found.sort(key=lambda pair: -pair[0])
    return np.array([box for _, box in found[: config.kept]]).reshape(-1, 4)


@pytest.mark.parametrize("config", [SOME, MANY])
@given(seed=st.integers(0, 2**32))
def test_proposals_agree_with_the_loops(config, seed):
    """Each image of a batch has its own size."""
    logits, deltas, anchors = draw(seed)
    sizes = np.int32([[48, 60], [30, 20]])
    others = [x[::-1] for x in logits], [-x for x in deltas]
    images = [(logits, deltas), others]
    boxes, valid = run_batch(*jax.tree.map(lambda *x: np.stack(x), *images), anchors, sizes, config)
    assert boxes.shape == (2, config.kept, 4)
    for index, size in enumerate(sizes):
        expected = loop(*images[index], anchors, size, config)
        count = len(expected)
        assert valid[index].tolist() == [True] * count + [False] * (config.kept - count)
        np.testing.assert_allclose(boxes[index][:count], expected, atol=1e-3)
        assert not np.asarray(boxes[index][count:]).any()


def test_levels_do_not_suppress_one_another():
    box = np.float32([[5, 5, 25, 25]])
    logits = [np.float32([1]), np.float32([2])]
    still = [np.zeros((1, 4), np.float32)] * 2
    boxes, valid = run(logits, still, [box, box], SIZE, ProposalConfig(5, 3, 0.5))
    assert valid.tolist() == [True, True, False]
    np.testing.assert_allclose(boxes, [*box, *box, [0, 0, 0, 0]])
    _, valid = run([np.float32([1, 2])], [np.zeros((2, 4), np.float32)], [np.repeat(box, 2, 0)],
                   SIZE, ProposalConfig(5, 3, 0.5))  # fmt: skip
    assert valid.tolist() == [True, False, False]


def test_boxes_outside_the_image_are_not_proposed():
    logits, deltas, anchors = draw(0)
    away = [anchors_of_level + 200 for anchors_of_level in anchors]
    boxes, valid = run(logits, deltas, away, SIZE, SOME)
    assert not valid.any()
    assert not np.asarray(boxes).any()


def test_anchors_in_the_padding_do_not_displace_others():
    """Even if they extend into the image and have the highest scores."""
    within = np.float32([[0, 0, 20, 20], [20, 20, 40, 44]])
    beyond = np.float32([[50, 0, 71, 40], [0, 40, 30, 57], [40, 30, 80, 66]])
    anchors = [np.concatenate([beyond, within])]
    logits, deltas = [np.float32([9, 8, 7, -1, -2])], [np.zeros((5, 4), np.float32)]
    boxes, valid = run(logits, deltas, anchors, SIZE, ProposalConfig(2, 4, 0.5))
    assert valid.tolist() == [True, True, False, False]
    np.testing.assert_array_equal(boxes[:2], within)


def test_anchors_in_the_padding_are_refined_on_request():
    within, beyond = np.float32([[0, 0, 20, 20]]), np.float32([[50, 0, 71, 40], [70, 60, 90, 80]])
    anchors = [np.concatenate([beyond, within])]
    logits, deltas = [np.float32([9, 8, -1])], [np.zeros((3, 4), np.float32)]
    config = ProposalConfig(2, 3, 0.5, in_padding=True)
    boxes, valid = run(logits, deltas, anchors, SIZE, config)
    # The second box is outside the image, and takes the room of the third.
    assert valid.tolist() == [True, False, False]
    np.testing.assert_array_equal(boxes[0], [50, 0, 60, 40])


@pytest.mark.parametrize(
    ("options", "count"),
    [({"shortest_side": 1e-3}, 3), ({"shortest_side": 0.0}, 4), ({"clamps_shrinking": True}, 5)],
)  # fmt: skip
def test_thin_boxes_are_dropped_below_the_shortest_side(options, count):
    anchors = [np.float32([[20 * i, 0, 20 * i + 10, 10] for i in range(5)])]
    deltas = np.zeros((5, 4), np.float32)
    # The widths are 10, 0.02, 0.002, 0.0002 and 0; clamping leaves 10 / 62.5.
    deltas[1:, 2] = [*np.log([2e-3, 2e-4, 2e-5]), -1000]
    logits, size = [np.arange(5, 0, -1, dtype=np.float32)], np.int32([48, 120])
    config = ProposalConfig(5, 5, 0.5, **options)
    boxes, valid = run(logits, [deltas], anchors, size, config)
    assert valid.sum() == count
    if options.get("clamps_shrinking"):
        np.testing.assert_allclose(boxes[1:, 2] - boxes[1:, 0], [0.16] * 4, rtol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_boxes_and_scores_that_are_not_finite_are_not_proposed(value):
    logits, deltas, anchors = draw(0)
    logits[0][3] = logits[2][0] = value
    for side in range(4):
        deltas[0][4 + side, side] = value
    boxes, valid = run(logits, deltas, anchors, SIZE, MANY)
    assert np.isfinite(boxes).all()
    assert valid.any()
    assert not np.asarray(boxes)[~np.asarray(valid)].any()


def test_proposals_have_no_gradient():
    logits, deltas, anchors = draw(0)

    def total(*predicted):
        boxes, _ = propose(*predicted, anchors, SIZE, SOME)
        return boxes.sum()

    gradients = jit(jax.grad(total, argnums=(0, 1)))(logits, deltas)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradients))


@pytest.fixture(scope="module")
def pyramid():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, *size, 4)).astype(np.float32) for size in [(3, 4), (2, 2)]]


def test_the_head_equals_loops_on_every_level_in_the_order_of_the_anchors(pyramid):
    anchors = AnchorConfig(strides=(4, 8))
    head = RPNHead(len(anchors.ratios))
    variables = random_variables(head, pyramid)
    logits, deltas = jit(head.apply)(variables, pyramid)
    boxes = pyramid_anchors([level.shape[1:3] for level in pyramid], anchors)
    params = variables["params"]

    def convolve(x, name):
        return loops.convolve(x, params[name]["kernel"]) + params[name]["bias"]

    for level, x in enumerate(pyramid):
        hidden = np.maximum(convolve(x, "conv"), 0)
        objectness, refinement = convolve(hidden, "objectness"), convolve(hidden, "boxes")
        assert logits[level].shape == (2, len(boxes[level]))
        assert deltas[level].shape == (2, len(boxes[level]), 4)
        place = 0
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                for ratio in range(3):
                    centre = boxes[level][place].reshape(2, 2).mean(axis=0)
                    stride = anchors.strides[level]
                    np.testing.assert_allclose(centre, [column * stride, row * stride], atol=1e-4)
                    np.testing.assert_allclose(
                        logits[level][:, place], objectness[:, row, column, ratio],
                        rtol=1e-4, atol=1e-3,
                    )  # fmt: skip
                    np.testing.assert_allclose(
                        deltas[level][:, place],
                        refinement[:, row, column, 4 * ratio : 4 * ratio + 4],
                        rtol=1e-4, atol=1e-3,
                    )  # fmt: skip
                    place += 1


def test_in_bfloat16_logits_and_deltas_are_float32(pyramid):
    """They are not rounded to bfloat16, in which many anchors would have equal scores."""
    head = RPNHead(3, dtype=jnp.bfloat16)
    variables = jax.eval_shape(head.init, KEY, pyramid)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    found = jit(head.apply)(random_variables(head, pyramid), pyramid)
    for leaf in jax.tree.leaves(found):
        assert leaf.dtype == jnp.float32
        assert (leaf != leaf.astype(jnp.bfloat16).astype(jnp.float32)).any()


def test_the_number_of_parameters_equals_torchvisions():
    """torchvision has 593,935: a 3x3 convolution with 256 channels, 3 logits and 12 deltas."""
    level = jax.ShapeDtypeStruct((1, 8, 8, 256), jnp.float32)
    parameters = cost(RPNHead(3), [level, level]).parameters
    assert parameters == (9 * 256 + 1) * 256 + 257 * (3 + 12) == 593_935


def test_initial_values_of_parameters():
    params = jit(RPNHead(3).init)(KEY, [np.zeros((1, 2, 2, 256), np.float32)])["params"]
    for name, count in {"conv": 256, "objectness": 3, "boxes": 12}.items():
        assert params[name]["kernel"].shape[-1] == count
        np.testing.assert_allclose(params[name]["kernel"].std(), 0.01, rtol=0.1)
        assert not params[name]["bias"].any()
