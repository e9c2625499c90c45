import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.detection.model.config import BoxHeadConfig, MaskHeadConfig
from experiments.detection.model.heads import BoxHead, MaskHead
from experiments.engine.tables.cost import cost
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import WITHOUT_GUIDE
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables

KEY = jax.random.key(0, impl="rbg")
CLASSES = 3
BOX = BoxHeadConfig(size=2, features=6)


def regions(size, channels=4):
    return np.random.default_rng(0).normal(size=(2, 3, size, size, channels)).astype(np.float32)


def outputs(head, x):
    """Shapes and dtypes of parameters and outputs."""
    return jax.eval_shape(lambda x: head.init_with_output(KEY, x)[::-1], x)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_the_box_head_equals_its_formula(class_agnostic):
    config = BoxHeadConfig(size=2, features=6, class_agnostic=class_agnostic)
    head, x = BoxHead(config, CLASSES), regions(2)
    variables = random_variables(head, x)
    logits, deltas = jit(head.apply)(variables, x)

    def dense(name, x):
        return x @ variables["params"][name]["kernel"] + variables["params"][name]["bias"]

    hidden = x.reshape(6, -1).astype(np.float64)
    for name in ("fc1", "fc2"):
        hidden = np.maximum(dense(name, hidden), 0)
    boxes = 1 if class_agnostic else CLASSES
    assert logits.shape == (2, 3, CLASSES + 1)
    assert deltas.shape == (2, 3, boxes, 4)
    expected = dense("classes", hidden).reshape(logits.shape)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        deltas, dense("boxes", hidden).reshape(deltas.shape), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("upsampler", ["nearest", "deconvolution"])
def test_the_mask_head_equals_loops(upsampler):
    """As in Mask R-CNN, only the deconvolution is followed by a ReLU."""
    config = MaskHeadConfig(size=3, layers=2, features=5, upsampler=upsampler)
    head, x = MaskHead(config, CLASSES), regions(3)
    variables = random_variables(head, x)
    logits = jit(head.apply)(variables, x)
    params = variables["params"]

    def convolve(name, x):
        return loops.convolve(x, params[name]["kernel"]) + params[name]["bias"]

    y = x.reshape(6, 3, 3, 4)
    for name in ("conv1", "conv2"):
        y = np.maximum(convolve(name, y), 0)
    if upsampler == "nearest":
        y = loops.nearest(y)
    else:
        (deconvolution,) = params["upsample"].values()
        assert deconvolution["kernel"].shape == (2, 2, 5, 5)
        y = loops.deconvolve(y, deconvolution["kernel"]) + deconvolution["bias"]
        y = np.maximum(y, 0)
    expected = convolve("masks", y).reshape(2, 3, 6, 6, CLASSES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("upsampler", WITHOUT_GUIDE)
@pytest.mark.parametrize("class_agnostic", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_masks_with_every_upsampler(upsampler, class_agnostic, dtype):
    config = MaskHeadConfig(
        size=3,
        layers=2,
        features=8,
        upsampler=upsampler,
        carafe=CarafeConfig(compressed_channels=4),
        class_agnostic=class_agnostic,
    )
    variables, logits = outputs(MaskHead(config, CLASSES, dtype=dtype), regions(3))
    assert logits.shape == (2, 3, 6, 6, 1 if class_agnostic else CLASSES)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, logits))} == {jnp.dtype("float32")}
    plain = upsampler in ("nearest", "bilinear")
    names = {"conv1", "conv2", "masks"} | (set() if plain else {"upsample"})
    assert set(variables["params"]) == names


def test_in_bfloat16_the_box_head_returns_float32_close_to_the_float32_result():
    x = regions(2)
    variables, found = outputs(BoxHead(BOX, CLASSES, dtype=jnp.bfloat16), x)
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, found))} == {jnp.dtype("float32")}
    assert set(variables["params"]) == {"fc1", "fc2", "classes", "boxes"}
    random = random_variables(BoxHead(BOX, CLASSES), x)
    exact, near = (
        jit(BoxHead(BOX, CLASSES, dtype=dtype).apply)(random, x)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    for a, b in zip(exact, near, strict=True):
        scale = np.abs(a).max()
        assert 0 < np.abs(a - b).max() < 0.03 * scale


def test_a_mask_head_without_convolutions():
    config = MaskHeadConfig(size=3, layers=0, upsampler="bilinear")
    variables, logits = outputs(MaskHead(config, CLASSES), regions(3))
    assert set(variables["params"]) == {"masks"}
    assert logits.shape == (2, 3, 6, 6, CLASSES)


def parameters(head, side):
    return cost(head, jax.ShapeDtypeStruct((1, 1, side, side, 256), jnp.float32)).parameters


def test_number_of_parameters_of_the_standard_box_head():
    """torchvision's TwoMLPHead has 13,895,680; its predictor also has deltas of the background."""
    hidden = (7 * 7 * 256 + 1) * 1024 + 1025 * 1024
    assert hidden == 13_895_680
    assert parameters(BoxHead(BoxHeadConfig(), 80), 7) == hidden + 1025 * (81 + 4 * 80)
    agnostic = BoxHead(BoxHeadConfig(class_agnostic=True), 80)
    assert parameters(agnostic, 7) == hidden + 1025 * (81 + 4)


def test_number_of_parameters_of_the_standard_mask_head():
    convolutions = 4 * (9 * 256 + 1) * 256
    mask = 257 * 80
    deconvolution = (4 * 256 + 1) * 256
    assert parameters(MaskHead(MaskHeadConfig(), 80), 14) == convolutions + deconvolution + mask
    carafe = MaskHead(MaskHeadConfig(upsampler="carafe"), 80)
    predictor = 257 * 64 + 100 * (9 * 64 + 1)
    assert parameters(carafe, 14) == convolutions + predictor + mask
    agnostic = MaskHead(MaskHeadConfig(upsampler="nearest", class_agnostic=True), 80)
    assert parameters(agnostic, 14) == convolutions + 257


def test_initial_values_of_parameters():
    def init(head, shape):
        return jit(head.init)(KEY, jnp.zeros((1, 1, *shape)))["params"]

    box = init(BoxHead(BoxHeadConfig(features=64), 20), (4, 4, 16))
    bound = np.sqrt(6 / (256 + 64))  # Glorot and Bengio
    assert 0.95 * bound < np.abs(box["fc1"]["kernel"]).max() <= bound
    np.testing.assert_allclose(box["classes"]["kernel"].std(), 0.01, rtol=0.1)
    np.testing.assert_allclose(box["boxes"]["kernel"].std(), 0.001, rtol=0.1)
    mask = init(MaskHead(MaskHeadConfig(layers=1, features=16), 20), (4, 4, 16))
    np.testing.assert_allclose(mask["conv1"]["kernel"].std(), np.sqrt(2 / (9 * 16)), rtol=0.1)
    np.testing.assert_allclose(mask["masks"]["kernel"].std(), np.sqrt(2 / 20), rtol=0.15)
    biases = [leaf["bias"] for leaf in (*box.values(), mask["conv1"], mask["masks"])]
    assert not any(np.asarray(bias).any() for bias in biases)
