"""Tests the heads on maps, with slow loops, in evaluation mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.segmentation.model.auxiliary import AuxiliaryHead
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.psanet import PSANetHead
from experiments.segmentation.model.pspnet import PSPNetHead
from experiments.segmentation.model.pyramid_pooling import PyramidPooling
from experiments.segmentation.model.upernet import UperNetHead
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.segmentation.model.head_loops import (
    Layers,
    doubled,
    joined,
    psamask,
    pyramid_pooling,
)
from tests.experiments.variables import scaled_variables

CLASSES = 3
KEY = jax.random.key(0, impl="rbg")
ORDERS = ["resize_first", "convolution_first"]
# C2 to C5 of an image of 34x24 pixels.
SIZES = [(9, 6), (5, 3), (3, 2), (2, 1)]


def maps(sizes=SIZES):
    rng = np.random.default_rng(0)
    return tuple(
        rng.normal(size=(2, *size, 3 + index)).astype(np.float32)
        for index, size in enumerate(sizes)
    )


def config(architecture="upernet", **fields):
    return SegmenterConfig(architecture, **{"channels": 4, "norm": "batch"} | fields)


def check(module, x, slow):
    """Compares a module with slow(layers, x)."""
    variables = scaled_variables(module, x)
    found = jit(module.apply)(variables, x)
    expected = slow(Layers(variables), x)
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("upsampler", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(7, 8), (10, 5)])
def test_pyramid_pooling_equals_the_loops(order, upsampler, size):
    module = PyramidPooling(config(ppm=upsampler, pooling_order=order))
    (x,) = maps([size])
    check(module, x, lambda layers, x: pyramid_pooling(layers, x, order, upsampler))


def test_the_order_of_pooling_matters():
    (x,) = maps([(7, 8)])
    first, second = (PyramidPooling(config(pooling_order=order)) for order in ORDERS)
    variables = scaled_variables(first, x)
    results = [jit(module.apply)(variables, x) for module in (first, second)]
    assert np.abs(results[0] - results[1]).max() > 1e-3


def upernet(fpn, fuse):
    def slow(layers, maps):
        def upsample(x, size, method):
            return loops.resize(x, size) if method == "bilinear" else doubled(x, size)

        c2, c3, c4, c5 = maps
        p5 = pyramid_pooling(layers.below("ppm"), c5, "resize_first", "bilinear")
        f4 = layers.normalized("lateral_4", c4) + upsample(p5, c4.shape[1:3], fpn)
        f3 = layers.normalized("lateral_3", c3) + upsample(f4, c3.shape[1:3], fpn)
        f2 = layers.normalized("lateral_2", c2) + upsample(f3, c2.shape[1:3], fpn)
        p2, p3, p4 = (layers.normalized(f"output_{i}", f) for i, f in ((2, f2), (3, f3), (4, f4)))
        if fuse == "bilinear":
            z = joined(p2, *[loops.resize(p, c2.shape[1:3]) for p in (p3, p4, p5)])
        else:
            z = joined(p4, doubled(p5, c4.shape[1:3]))
            z = joined(p3, doubled(z, c3.shape[1:3]))
            z = joined(p2, doubled(z, c2.shape[1:3]))
        return layers.classified(layers.normalized("fusion", z))

    return slow


@pytest.mark.parametrize(
    ("fpn", "fuse"), [("bilinear", "bilinear"), ("nearest", "bilinear"), ("bilinear", "nearest")]
)
def test_upernet_equals_the_loops(fpn, fuse):
    check(UperNetHead(config(fpn=fpn, fuse=fuse), CLASSES), maps(), upernet(fpn, fuse))


def test_upsamplers_of_upernet_read_the_right_channels():
    module = UperNetHead(config(ppm="carafe", fpn="carafe", fuse="carafe"), CLASSES)
    params = jax.eval_shape(module.init, KEY, maps())["params"]
    upsamplers = {name: params[name] for name in params if "upsample" in name}
    upsamplers |= {f"ppm/{n}": p for n, p in params["ppm"].items() if "upsample" in n}
    channels = {
        name: tree["kernel_predictor"]["channel_compressor"]["kernel"].shape[-2]
        for name, tree in upsamplers.items()
    }
    assert channels == {
        **{f"ppm/upsample_{bins}": 4 for bins in (1, 2, 3, 6)},
        **{f"fpn_upsample_{level}": 4 for level in (5, 4, 3)},
        **{"fuse_upsample_5": 4, "fuse_upsample_4": 8, "fuse_upsample_3": 12},
    }


def test_pspnet_equals_the_loops():
    module = PSPNetHead(config("pspnet"), CLASSES)

    def slow(layers, maps):
        y = pyramid_pooling(layers.below("ppm"), maps[-1], "resize_first", "bilinear")
        return layers.classified(y)

    check(module, maps([(3, 3), (7, 4)]), slow)


@pytest.mark.parametrize("size", [(7, 5), (4, 6), (1, 1)])
@pytest.mark.parametrize("side", [3, 4, 13])
def test_psanet_equals_the_loops(size, side):
    def attention(layers, x, direction):
        reduced = layers.normalized("reduce", x)
        half = [(n + 1) // 2 for n in size]
        reduced = loops.resize(reduced, half, align_corners=True)
        masks = layers.params["masks"]["kernel"]
        masks = loops.convolve(layers.normalized("hidden", reduced), masks)
        weights = np.exp(psamask(masks, side, direction))
        weights /= weights.sum(axis=2, keepdims=True)
        sources = reduced.reshape(len(x), -1, reduced.shape[-1])
        return (weights @ sources).reshape(reduced.shape)

    def slow(layers, maps):
        x = maps[-1]
        directions = ("collect", "distribute")
        y = joined(*[attention(layers.below(name), x, name) for name in directions])
        y = loops.resize(layers.normalized("projection", y), size, align_corners=True)
        return layers.classified(layers.normalized("output", joined(x, y)))

    module = PSANetHead(config("psanet", mask_side=side), CLASSES)
    check(module, maps([(3, 3), size]), slow)


def test_the_auxiliary_head_equals_the_loops():
    module = AuxiliaryHead(config(), CLASSES)
    (x,) = maps([(4, 3)])
    check(module, x, lambda layers, x: layers.classified(layers.normalized("hidden", x)))
    hidden = jax.eval_shape(module.init, KEY, x)["params"]["hidden"]
    assert hidden["conv"]["kernel"].shape == (3, 3, 3, 2)
    module = AuxiliaryHead(config(channels=1), CLASSES)
    y, _ = jax.eval_shape(module.init_with_output, KEY, jnp.asarray(x))
    assert y.shape == (2, 4, 3, CLASSES)
    module = AuxiliaryHead(config(auxiliary_channels=7), CLASSES)
    hidden = jax.eval_shape(module.init, KEY, x)["params"]["hidden"]
    assert hidden["conv"]["kernel"].shape == (3, 3, 3, 7)
