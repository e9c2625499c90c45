"""Tests the deformable stages of a ResNet."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.engine.optimization import make_optimizer
from experiments.engine.optimization_config import OptimizerConfig
from experiments.models import deformable_convolution
from experiments.models.resnet import Bottleneck, ResNet, is_frozen
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import scaled_variables
from tests.slow import slow

C3_TO_C5 = (False, True, True, True)
RES2_TO_RES4 = (True, True, True, False)
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@functools.cache
def params(*fields, **named):
    """The shapes of the parameters. They do not depend on the operator, which is slow to trace."""
    model = ResNet(ResNetConfig(*fields, **named), None)
    x = jnp.zeros((1, 64, 64, 3))
    init = functools.partial(model.init, method="features")

    def zeros(x, offsets, masks, kernel, **options):
        return jnp.zeros((*offsets.shape[:3], kernel.shape[-1]), x.dtype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deformable_convolution, "modulated_deformable_convolution", zeros)
        return jax.eval_shape(init, jax.random.key(0), x)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def deformable_blocks(tree):
    return {name for name, block in tree.items() if "conv_offset" in block.get("conv2", {})}


def blocks_of(stages, depth=50, first=True):
    """The names of the blocks in deformable stages; without ``first``, not the first in each."""
    return {
        f"layer{stage}_{index}"
        for stage, deformable in enumerate(stages, 1)
        for index in range(BLOCKS[depth][stage - 1])
        if deformable and (first or index)
    }


# The figures in the docstring of `ResNet`.
@pytest.mark.parametrize(
    ("depth", "downsampler", "stages", "expected"),
    [
        (50, "strided", C3_TO_C5, 871_263),
        (50, "carafe", C3_TO_C5, 653_454),
        (50, "strided", RES2_TO_RES4, 544_671),
        slow(101, "strided", C3_TO_C5, 1_929_258),
        slow(101, "carafe", C3_TO_C5, 1_711_449),
        slow(101, "strided", RES2_TO_RES4, 1_602_666),
    ],
)
def test_parameters_that_deformable_stages_add(depth, downsampler, stages, expected):
    deformable = params(depth, downsampler, deformable_stages=stages)
    assert count(deformable) - count(params(depth, downsampler)) == expected
    # By hand: a predictor of 27 channels for each block, but not after a downsampler.
    by_hand = 0
    for stage, blocks in enumerate(BLOCKS[depth]):
        pooled = stage > 0 and downsampler != "strided"
        by_hand += stages[stage] * (blocks - pooled) * (9 * 64 * 2**stage * 27 + 27)
    assert by_hand == expected


def test_frozen_stages_include_the_predictors_of_offsets():
    found = params(50, width=2, deformable_stages=C3_TO_C5)
    predictors = {
        names[0]
        for names in (
            tuple(key.key for key in path) for path, _ in jax.tree.leaves_with_path(found)
        )
        if "conv_offset" in names and is_frozen(names, 2)
    }
    assert predictors == {f"layer2_{index}" for index in range(4)}


@pytest.mark.parametrize("groups", [1, 4])
def test_names_and_shapes_of_a_deformable_convolution(groups):
    found = params(50, deformable_stages=C3_TO_C5, deformable_groups=groups)
    assert deformable_blocks(found) == blocks_of(C3_TO_C5)
    shapes = jax.tree.map(lambda leaf: leaf.shape, found["layer3_1"]["conv2"])
    offsets = 27 * groups
    predictor = {"kernel": (3, 3, 256, offsets), "bias": (offsets,)}
    assert shapes == {"kernel": (3, 3, 256, 256), "conv_offset": predictor}


@pytest.mark.parametrize("method", ["avg_pool", "carafe", "lip"])
def test_convolutions_after_a_downsampler_are_plain(method):
    stages = (True, True, True, True)
    found = params(50, method, deformable_stages=stages)
    # Res-2 does not downsample.
    assert deformable_blocks(found) == blocks_of(stages, first=False) | {"layer1_0"}
    plain = params(50, method)
    for stage in (2, 3, 4):
        assert found[f"layer{stage}_0"] == plain[f"layer{stage}_0"]


@pytest.mark.parametrize(("output_stride", "pooled"), [(16, {2, 3}), (8, {2})])
def test_first_blocks_of_dilated_stages_are_deformable(output_stride, pooled):
    found = params(50, "carafe", output_stride=output_stride, deformable_stages=C3_TO_C5)
    plain = {f"layer{stage}_0" for stage in pooled}
    assert deformable_blocks(found) == blocks_of(C3_TO_C5) - plain


def test_a_stride_in_the_first_convolution_keeps_all_blocks_deformable():
    usual = params(50, deformable_stages=C3_TO_C5)
    assert params(50, stride_in_1x1=True, deformable_stages=C3_TO_C5) == usual


def block_of(config, downsamples, dilations=(1, 1), features=2, deformable=True):
    return Bottleneck(
        config,
        features,
        downsamples,
        dilations,
        train=False,
        dtype=None,
        axis_name=None,
        deformable=deformable,
    )


@pytest.mark.parametrize(
    ("fields", "downsamples", "dilations"),
    [
        ({}, True, (1, 1)),
        ({"stride_in_1x1": True}, True, (1, 1)),
        ({"norm": "frozen"}, False, (1, 2)),
        ({"deformable_groups": 2}, False, (4, 4)),
    ],
    ids=["stride", "stride_in_1x1", "dilation", "groups"],
)
def test_initially_a_deformable_convolution_gives_half_of_the_plain_one(
    fields, downsamples, dilations
):
    """So strides and dilations are those of the plain convolution."""
    config = ResNetConfig(50, deformable_stages=(True, True, True, True), **fields)
    block = block_of(config, downsamples, dilations)
    x = images(1, 9, 10, 8)
    variables = scaled_variables(block, x)
    tree = dict(variables["params"])
    predictor = jax.tree.map(np.zeros_like, tree["conv2"]["conv_offset"])
    initial = tree | {"conv2": {**tree["conv2"], "conv_offset": predictor}}
    half = tree | {"conv2": {"kernel": tree["conv2"]["kernel"] / 2}}
    plain = block_of(config, downsamples, dilations, deformable=False)
    found = jit(block.apply)({**variables, "params": initial}, x)
    expected = jit(plain.apply)({**variables, "params": half}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_strided_deformable_bottleneck_by_hand():
    """All offsets are a whole pixel down, and the masks have a logit of 1."""
    block = block_of(ResNetConfig(50), True)
    x = images(1, 6, 5, 4)
    variables = scaled_variables(block, x)
    tree = jax.tree.map(lambda leaf: leaf, variables["params"])
    predictor = tree["conv2"]["conv_offset"]
    predictor["kernel"] = np.zeros_like(predictor["kernel"])
    predictor["bias"] = np.float32([1, 0] * 9 + [1] * 9)
    stats = variables["batch_stats"]

    def normed(y, name):
        norm, running = tree[name], stats[name]
        scale = norm["scale"] / np.sqrt(running["var"] + 1e-5)
        return (y - running["mean"]) * scale + norm["bias"]

    def convolved(x, name):
        return loops.convolve(x, tree[name]["kernel"])

    y = np.maximum(normed(convolved(x, "conv1"), "bn1"), 0)
    # The plain convolution, read a row further down. A sample counts within the map only.
    padded = np.pad(y[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
    top = np.concatenate([y[:, :1], padded], axis=1)  # row -1 of `padded` is row 0 of `y`
    y = convolved(top, "conv2")[:, 1::2, ::2] / (1 + np.exp(-1))
    y = np.maximum(normed(y, "bn2"), 0)
    shortcut = normed(convolved(x, "downsample_conv")[:, ::2, ::2], "downsample_bn")
    expected = np.maximum(normed(convolved(y, "conv3"), "bn3") + shortcut, 0)
    found = jit(block.apply)({"params": tree, "batch_stats": stats}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_initial_values():
    block = block_of(ResNetConfig(50), True, features=64)
    x = jnp.zeros((1, 4, 4, 128))
    conv2 = jit(lambda key: block.init(key, x)["params"]["conv2"])(jax.random.key(0))
    assert not any(leaf.any() for leaf in jax.tree.leaves(conv2["conv_offset"]))
    np.testing.assert_allclose(np.std(conv2["kernel"]), np.sqrt(2 / (9 * 64)), rtol=0.02)


def test_bfloat16_computation_keeps_float32_parameters():
    block = block_of(ResNetConfig(50), False, features=4)
    block = dataclasses.replace(block, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 6, 5, 16), jnp.bfloat16)
    y, variables = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert y.dtype == jnp.bfloat16


def test_weight_decay_applies_to_the_kernels_of_predictors_unless_their_stage_is_frozen():
    found = params(50, width=2, deformable_stages=(True, True, True, True))
    blocks = {name: found[name] for name in ("layer1_0", "layer2_0")}
    tree = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), blocks)
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1.0, weight_decay=0.1),
        lambda step: 1.0,
        lambda path: is_frozen(path, 1),
    )
    zero = jax.tree.map(np.zeros_like, tree)
    changes, _ = optimizer.update(zero, optimizer.init(tree), tree)
    for stage, decays in ((1, False), (2, True)):
        conv2 = changes[f"layer{stage}_0"]["conv2"]
        assert np.any(conv2["kernel"]) == decays
        assert np.any(conv2["conv_offset"]["kernel"]) == decays
        assert not np.any(conv2["conv_offset"]["bias"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 34, "deformable_stages": C3_TO_C5}, r"deformable_stages.* 34 .*\(False, True"),
        ({"deformable_stages": (True, True)}, r"deformable_stages.*four.*\(True, True\)$"),
        ({"deformable_stages": (0, 1, 1, 1)}, r"deformable_stages.*four.*\(0, 1, 1, 1\)$"),
        ({"deformable_groups": 0}, r"deformable_groups.* 1.* 0$"),
        (
            {"width": 6, "deformable_stages": C3_TO_C5, "deformable_groups": 8},
            r"deformable_groups.* 12.* 8$",
        ),
    ],
)
def test_invalid_configs_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ResNetConfig(**fields)


def test_groups_divide_the_deformable_widths_only():
    config = ResNetConfig(50, width=2, deformable_stages=C3_TO_C5, deformable_groups=4)
    assert config.deformable_groups == 4
