import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.tables.cost import cost
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.methods import UPSAMPLERS, WITHOUT_GATE
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.segmenter import Segmenter
from tests.compilation import jit
from tests.experiments.variables import scaled_variables
from tests.slow import slow

KEY = jax.random.key(0, impl="rbg")
DEEP, V1C = ResNetConfig(50, stem="deep"), ResNetConfig(50, stem="v1c")
ALL_CARAFE = {"ppm": "carafe", "fpn": "carafe", "fuse": "carafe"}


def segmenter(backbone, num_classes=150, **fields):
    fields = {"norm": "batch"} | fields
    return Segmenter(SegmenterConfig(backbone=backbone, **fields), num_classes, axis_name="devices")


def dilated(backbone):
    return dataclasses.replace(backbone, output_stride=8)


def small(architecture="upernet", stem="deep", downsampler="strided", **fields):
    stride = 32 if architecture == "upernet" else 8
    backbone = ResNetConfig(18, downsampler, output_stride=stride, width=2, stem=stem)
    return segmenter(backbone, 5, architecture=architecture, channels=4, **fields)


def images(*shape):
    return np.random.default_rng(0).normal(size=(*shape, 3)).astype(np.float32)


def shapes(model, *size):
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return jax.eval_shape(functools.partial(model.init_with_output, method="layers"), KEY, x)


@functools.cache
def parameters(model):
    _, variables = shapes(model, 64, 64)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("backbone", "fields", "expected"),
    [
        (DEEP, {}, 64_222_294),
        (DEEP, {"auxiliary": True}, 66_620_652),
        (V1C, {}, 64_117_750),
        (V1C, {"auxiliary": True}, 66_516_108),
        slow(ResNetConfig(101, stem="deep"), {}, 83_214_422),
        slow(ResNetConfig(101, stem="v1c"), {}, 83_109_878),
        slow(ResNetConfig(101, stem="v1c"), {"auxiliary": True}, 85_508_236),
        (dilated(V1C), {"architecture": "pspnet"}, 46_678_006),
        (dilated(V1C), {"architecture": "pspnet", "auxiliary": True}, 49_076_364),
        (dilated(DEEP), {"architecture": "pspnet"}, 46_782_550),
        (dilated(DEEP), {"architecture": "pspnet", "auxiliary": True}, 49_180_908),
        (dilated(DEEP), {"architecture": "psanet"}, 50_875_478),
        (dilated(DEEP), {"architecture": "psanet", "auxiliary": True}, 53_273_836),
    ],
)
def test_parameters(backbone, fields, expected):
    assert parameters(segmenter(backbone, **fields)) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ppm": "carafe"}, 362_128),
        ({"fpn": "carafe"}, 271_596),
        ({"fuse": "carafe"}, 369_900),
        (ALL_CARAFE, 1_003_624),
    ],
)
@pytest.mark.parametrize("order", ["resize_first", slow("convolution_first")])
def test_parameters_that_carafe_adds(fields, order, expected):
    added = parameters(segmenter(DEEP, pooling_order=order, **fields))
    assert added - parameters(segmenter(DEEP)) == expected


def test_parameters_that_carafe_adds_to_the_whole_network():
    backbone = dataclasses.replace(DEEP, downsampler="carafe")
    added = parameters(segmenter(backbone, **ALL_CARAFE)) - parameters(segmenter(DEEP))
    assert added == 1_074_391


def test_parameters_of_the_parts():
    _, variables = shapes(segmenter(DEEP, auxiliary=True), 64, 64)
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in variables["params"].items()
    }
    assert count == {"backbone": 23_631_808, "head": 40_590_486, "auxiliary": 2_398_358}
    _, variables = shapes(segmenter(dilated(DEEP), architecture="psanet"), 64, 64)
    attention = variables["params"]["head"]["collect"]
    assert sum(leaf.size for leaf in jax.tree.leaves(attention)) == 3_095_040


def multiply_adds(model, side):
    """The number of multiply-adds in all convolutions."""
    products = 0

    def count(layer, arguments, options, context):
        nonlocal products
        y = layer(*arguments, **options)
        if isinstance(context.module, nn.Conv):
            kernel = context.module.variables["params"]["kernel"]
            products += math.prod(y.shape[:-1]) * kernel.size
        return y

    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    _, variables = shapes(model, side, side)
    with nn.intercept_methods(count):
        jax.eval_shape(functools.partial(model.apply, method="layers"), variables, x)
    return products


@pytest.mark.parametrize(
    ("model", "side", "expected"),
    [
        (segmenter(DEEP), 512, 244.71),
        slow(segmenter(DEEP, pooling_order="convolution_first"), 512, 243.69),
        slow(segmenter(V1C, pooling_order="convolution_first"), 512, 237.86),
        slow(segmenter(V1C, pooling_order="convolution_first", auxiliary=True), 512, 237.86 + 2.46),
        slow(segmenter(ResNetConfig(101, stem="deep")), 512, 264.10),
        slow(
            segmenter(dilated(V1C), architecture="pspnet", pooling_order="convolution_first"),
            512,
            178.6,
        ),
        slow(
            segmenter(dilated(DEEP), architecture="pspnet", pooling_order="convolution_first"),
            473,
            161.9,
        ),
        slow(segmenter(dilated(DEEP), architecture="psanet"), 465, 170.2),
    ],
)
def test_multiply_adds(model, side, expected):
    found = multiply_adds(model, side) / 1e9
    if model.config.architecture == "psanet":  # products of the attention, 30x30 pixels
        found += 2 * 900**2 * 512 / 1e9
    assert found == pytest.approx(expected, abs=0.05)
    # The operations in tables also include normalisation, activations, and the products with the
    # matrices of interpolation, whose zeros count too.
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    operations = cost(model, x, method="layers").flops / 2e9
    assert 1 < operations / found < 1.015


@pytest.mark.parametrize("size", [slow((64, 64)), (75, 91), slow((33, 17)), (1, 1)], ids=str)
@pytest.mark.parametrize(
    ("architecture", "fields"),
    [
        ("upernet", {}),
        ("upernet", ALL_CARAFE),
        ("upernet", {"stem": "v1c", "downsampler": "carafe", "pooling_order": "convolution_first"}),
        ("pspnet", {}),
        ("pspnet", {"ppm": "carafe"}),
        ("psanet", {"mask_side": 4}),
    ],
)
def test_shapes_for_any_size(architecture, fields, size):
    model = small(architecture, auxiliary=True, **fields)
    (logits, auxiliary), variables = shapes(model, *size)
    stride = 4 if architecture == "upernet" else 8
    assert logits.shape == (1, *[-(-n // stride) for n in size], 5)
    c4_stride = 16 if architecture == "upernet" else 8
    assert auxiliary.shape == (1, *[-(-n // c4_stride) for n in size], 5)
    x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, x) == logits


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_every_upsampler_handles_odd_sizes(upsampler):
    others = upsampler if upsampler in WITHOUT_GATE else "bilinear"
    model = small(ppm=others, fpn=upsampler, fuse=others)
    (logits, auxiliary), variables = shapes(model, 75, 91)
    assert logits.shape == (1, 19, 23, 5)
    assert auxiliary is None
    assert set(variables["params"]) == {"backbone", "head"}


@pytest.mark.parametrize("architecture", ["upernet", "pspnet", "psanet"])
def test_bfloat16_computation_keeps_float32_parameters(architecture):
    model = dataclasses.replace(small(architecture, auxiliary=True), dtype=jnp.bfloat16)
    results, variables = shapes(model, 33, 64)
    leaves = jax.tree.leaves((results, variables))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_both_calls_have_the_same_logits():
    model, x = small(auxiliary=True), images(1, 40, 33)
    variables = scaled_variables(model, x, method="layers")
    called, (logits, auxiliary) = jit(
        lambda v, x: (model.apply(v, x), model.apply(v, x, method="layers"))
    )(variables, x)
    np.testing.assert_allclose(called, logits, rtol=1e-5)
    assert np.std(logits) > 0.01
    assert np.std(auxiliary) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["upernet", "pspnet", "psanet"])
def test_synchronised_statistics_are_those_of_the_whole_batch(architecture):
    x = images(8, 40, 32)
    fields = {"auxiliary": True, "mask_side": 5}
    alone, shared = (small(architecture, norm=norm, **fields) for norm in ("batch", "sync_batch"))
    variables = scaled_variables(alone, x, method="layers")

    def step(model, variables, x):
        return model.apply(variables, x, train=True, method="layers", mutable=["batch_stats"])

    whole, updates = jit(functools.partial(step, alone))(variables, x)
    backbone = dataclasses.replace(shared.config.backbone, norm="sync_batch")
    config = dataclasses.replace(shared.config, backbone=backbone)
    shared = dataclasses.replace(shared, config=config)
    mapped = jax.pmap(functools.partial(step, shared), "devices", in_axes=(None, 0))
    shares, shared_updates = mapped(variables, x.reshape(4, 2, 40, 32, 3))
    for share, logits in zip(shares, whole, strict=True):
        np.testing.assert_allclose(share.reshape(logits.shape), logits, rtol=1e-3, atol=1e-3)
    for device in range(4):
        jax.tree.map(
            lambda mine, all_, d=device: np.testing.assert_allclose(
                mine[d], all_, rtol=1e-3, atol=1e-4
            ),
            shared_updates,
            updates,
        )


@pytest.mark.parametrize("method", ["__call__", "layers"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((32, 32, 3), r"x must be \[B, H, W, C\].*\(32, 32, 3\)"),
        ((1, 2, 32, 32, 3), r"x must be \[B, H, W, C\].*\(1, 2, 32, 32, 3\)"),
        ((1, 0, 32, 3), r"x must have.*at least 1.*\(1, 0, 32, 3\)"),
    ],
)
def test_images_that_do_not_fit_are_named(method, shape, message):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(functools.partial(small().init, method=method), KEY, x)


def test_synchronised_norms_need_an_axis():
    model = dataclasses.replace(small(norm="sync_batch"), axis_name=None)
    with pytest.raises(ValueError, match=r"axis_name.*sync_batch.*None"):
        shapes(model, 32, 32)
