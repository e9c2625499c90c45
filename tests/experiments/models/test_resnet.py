import dataclasses
import functools
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine.config import ConfigError
from experiments.models.resnet import Bottleneck, ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.methods import Downsampler
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import scaled_variables
from tests.slow import slow

METHODS = get_args(Downsampler)
# Channels at the seven sites of ResNet-50: stem, then 3x3 and shortcut of Res-3, Res-4 and Res-5.
SITES_50 = (64, 128, 256, 256, 512, 512, 1024)
# The sites of ResNet-18, where the 3x3 convolution and the shortcut have the same input.
SITES_18 = (64, 64, 64, 128, 128, 256, 256)


def images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@functools.cache
def shapes(config, num_classes=1000, size=(64, 64), method=None):
    """Returns shapes of the variables and of the output, without computing them."""
    model = ResNet(config, num_classes)
    x = jnp.zeros((2, *size, 3))
    return jax.eval_shape(
        lambda key: model.init_with_output(key, x, method=method), jax.random.key(0)
    )


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def parameters(*fields):
    return count(shapes(ResNetConfig(*fields))[1]["params"])


def initial(module, x, **options):
    key = jax.random.key(0, impl="rbg")  # compiles in less time than the default
    return jit(functools.partial(module.init, **options))(key, x)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_parameters_of_the_standard_networks(depth, expected):
    assert parameters(depth) == expected


def carafe(channels, compressed=16):
    compressor, norm = (channels + 1) * compressed, 2 * compressed
    return compressor + norm + (9 * compressed + 1) * 25


def simplified_lip(channels):
    return 9 * channels**2 + 2 * channels


def lip_bottleneck(features):
    trunk = 2 * features * 128 + 9 * 128**2 + 4 * 128
    heads = (128 + 2) * (features + 2 * features)
    return trunk + heads + features**2 - 9 * features**2


@pytest.mark.parametrize(
    ("method", "depth", "expected"),
    [
        ("max_pool", 50, 0),
        ("avg_pool", 18, 0),
        ("dpp", 50, 2 * sum(SITES_50)),
        ("dpp", 18, 2 * sum(SITES_18)),
        ("carafe", 50, sum(map(carafe, SITES_50))),
        ("carafe", 101, sum(map(carafe, SITES_50))),
        ("carafe", 34, sum(map(carafe, SITES_18))),
        ("lip", 50, simplified_lip(64) + sum(map(lip_bottleneck, (128, 256, 512)))),
        ("lip", 18, sum(map(simplified_lip, SITES_18))),
    ],
)
def test_parameters_that_downsamplers_add(method, depth, expected):
    assert parameters(depth, method) - parameters(depth) == expected


def test_figures_in_the_docstring():
    assert 2 * sum(SITES_50) == 5_504
    assert sum(map(carafe, SITES_50)) == 69_743
    assert simplified_lip(64) + sum(map(lip_bottleneck, (128, 256, 512))) == -1_692_800


def test_compressed_channels():
    added = parameters(50, "carafe", 8) - parameters(50)
    assert added == sum(carafe(channels, 8) for channels in SITES_50)


@pytest.mark.parametrize(
    ("stem", "expected"), [("conv7", 23_508_032), ("deep", 23_631_808), ("v1c", 23_527_264)]
)
def test_parameters_with_each_stem(stem, expected):
    _, variables = shapes(ResNetConfig(50, stem=stem), None, method="features")
    assert count(variables["params"]) == expected
    sites = (128 if stem == "deep" else 64, *SITES_50[1:])
    _, variables = shapes(ResNetConfig(50, "carafe", stem=stem), None, method="features")
    added = count(variables["params"]) - expected
    assert added == sum(map(carafe, sites)) == (70_767 if stem == "deep" else 69_743)


def test_submodules_have_torchvisions_names():
    _, variables = shapes(ResNetConfig(50, "carafe"))
    params = variables["params"]
    blocks = [f"layer{n}_{i}" for n, last in enumerate((3, 4, 6, 3), 1) for i in range(last)]
    assert set(params) == {"conv1", "bn1", "pool", "fc", *blocks}
    layers = {"conv1", "bn1", "conv2", "bn2", "conv3", "bn3"}
    shortcut = {"downsample_conv", "downsample_bn"}
    sites = {"resample", "downsample_resample"}
    assert set(params["layer1_0"]) == layers | shortcut
    assert set(params["layer2_0"]) == set(params["layer4_0"]) == layers | shortcut | sites
    assert set(params["layer2_1"]) == layers
    assert params["conv1"]["kernel"].shape == (7, 7, 3, 64)
    assert params["layer3_0"]["conv2"] == {
        "kernel": jax.ShapeDtypeStruct((3, 3, 256, 256), jnp.float32)
    }
    assert set(variables["batch_stats"]["layer2_0"]["resample"]["kernel_predictor"]) == {"norm"}
    _, variables = shapes(ResNetConfig(18))
    assert set(variables["params"]["layer1_0"]) == {"conv1", "bn1", "conv2", "bn2"}
    assert set(variables["params"]["layer2_0"]) == {"conv1", "bn1", "conv2", "bn2"} | shortcut


@pytest.mark.parametrize(
    ("depth", "method", "size", "output_stride"),
    [
        *((18, method, (75, 91), 32) for method in METHODS),
        (18, "strided", (64, 64), 32),
        (18, "strided", (75, 91), 8),
        (50, "carafe", (75, 91), 16),
        (50, "lip", (75, 91), 32),
    ],
)
def test_shapes_of_the_maps(depth, method, size, output_stride):
    config = ResNetConfig(depth, method, output_stride=output_stride)
    maps, variables = shapes(config, None, size, "features")
    assert "fc" not in variables["params"]
    for index, features in enumerate(maps):
        stride = min(4 * 2**index, output_stride)
        channels = 64 * 2**index * (1 if depth == 18 else 4)
        assert features.shape == (2, *(-(-n // stride) for n in size), channels)


@pytest.mark.parametrize(("output_stride", "stages"), [(32, {2, 3, 4}), (16, {2, 3}), (8, {2})])
def test_dilated_stages_have_no_downsampler(output_stride, stages):
    _, variables = shapes(ResNetConfig(50, "carafe", output_stride=output_stride))
    for stage in (1, 2, 3, 4):
        assert ("resample" in variables["params"][f"layer{stage}_0"]) == (stage in stages)


@pytest.mark.parametrize("depth", [18, slow(50)])
def test_a_dilated_network_contains_the_outputs_of_the_strided_one(depth):
    x = images(1, 45, 53, 3)
    configs = [ResNetConfig(depth, output_stride=n, width=4) for n in (32, 16, 8)]
    variables = scaled_variables(ResNet(configs[0], None), x, method="features")

    @jit
    def all_c5(variables, x):
        return [ResNet(c, None).apply(variables, x, method="features")[3] for c in configs]

    strided, *dilated = all_c5(variables, x)
    for step, c5 in zip((2, 4), dilated, strict=True):
        scale = float(strided.max())
        np.testing.assert_allclose(c5[:, ::step, ::step], strided, atol=1e-5 * scale)


def test_stem_and_residual_blocks_by_hand():
    """Uses a network of width 1, and an image that is zero except for its centre."""
    model = ResNet(ResNetConfig(18, width=1), None)
    x = np.zeros((1, 8, 8, 3), np.float32)
    x[0, 4, 4, 0] = 1
    variables = scaled_variables(model, x, method="features")
    params, stats = variables["params"], variables["batch_stats"]
    params["bn1"] = {"scale": np.full(1, 2.0), "bias": np.zeros(1)}
    stats["bn1"] = {"mean": np.zeros(1), "var": np.ones(1)}
    for block in (
        "layer1_0",
        "layer1_1",
    ):  # blocks start as the identity, because their last scale is zero
        params[block]["bn2"] = {"scale": np.zeros(1), "bias": np.zeros(1)}
    kernel = np.arange(7 * 7 * 3, dtype=np.float32).reshape(7, 7, 3, 1) + 1
    params["conv1"]["kernel"] = kernel
    c2 = jit(lambda v, x: model.apply(v, x, method="features")[0])(variables, x)
    # Row i of the convolution reads the pixel at tap 4 - 2i + 3: taps 7 (none), 5, 3 and 1.
    taps = {1: 5, 2: 3, 3: 1}
    stem = np.zeros((4, 4))
    for i, row in taps.items():
        for j, column in taps.items():
            stem[i, j] = 2 * kernel[row, column, 0, 0] / np.sqrt(1 + 1e-5)
    expected = loops.pooled(stem[None, :, :, None], 3, 1, lambda pixels, *_: pixels.max(axis=0))
    np.testing.assert_allclose(c2, expected, rtol=1e-5)


def test_lip_bottleneck_by_hand():
    """The initial logits are equal, so both branches compute the mean of 3x3 pixels."""
    config = ResNetConfig(50, "lip")
    block = Bottleneck(config, 2, True, (1, 1), train=False, dtype=None, axis_name=None)
    x = np.abs(images(1, 5, 6, 4))
    variables = initial(block, x)
    variables["params"]["bn3"]["scale"] = jnp.ones(8)
    kernels = {name: value.get("kernel") for name, value in variables["params"].items()}

    def mean(x):
        return loops.pooled(x, 3, 1, lambda pixels, *_: pixels.mean(axis=0))

    def convolved(x, name):
        return loops.convolve(x, kernels[name]) / np.sqrt(1 + 1e-5)

    y = np.maximum(convolved(x, "conv1"), 0)
    y = convolved(np.maximum(convolved(mean(y), "conv2"), 0), "conv3")
    expected = np.maximum(y + convolved(mean(x), "downsample_conv"), 0)
    np.testing.assert_allclose(jit(block.apply)(variables, x), expected, atol=1e-5)


def test_strided_bottleneck_by_hand():
    block = Bottleneck(ResNetConfig(50), 2, True, (1, 1), train=False, dtype=None, axis_name=None)
    x = images(1, 6, 5, 4)
    variables = initial(block, x)
    variables["params"]["bn3"]["scale"] = jnp.ones(8)
    kernels = {name: value.get("kernel") for name, value in variables["params"].items()}

    def convolved(x, name):
        return loops.convolve(x, kernels[name]) / np.sqrt(1 + 1e-5)

    y = np.maximum(convolved(x, "conv1"), 0)
    y = np.maximum(convolved(y, "conv2")[:, ::2, ::2], 0)
    shortcut = convolved(x[:, ::2, ::2], "downsample_conv")
    expected = np.maximum(convolved(y, "conv3") + shortcut, 0)
    np.testing.assert_allclose(jit(block.apply)(variables, x), expected, atol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.25])
def test_the_stride_can_be_on_the_first_convolution_and_norms_can_have_another_epsilon(epsilon):
    config = ResNetConfig(50, stride_in_1x1=True, norm_epsilon=epsilon)
    block = Bottleneck(config, 2, True, (1, 1), train=False, dtype=None, axis_name=None)
    x = images(1, 6, 5, 4)
    variables = initial(block, x)
    variables["params"]["bn3"]["scale"] = jnp.ones(8)
    kernels = {name: value.get("kernel") for name, value in variables["params"].items()}

    def convolved(x, name):
        return loops.convolve(x, kernels[name]) / np.sqrt(1 + epsilon)

    halved = x[:, ::2, ::2]
    y = np.maximum(convolved(np.maximum(convolved(halved, "conv1"), 0), "conv2"), 0)
    expected = np.maximum(convolved(y, "conv3") + convolved(halved, "downsample_conv"), 0)
    np.testing.assert_allclose(jit(block.apply)(variables, x), expected, atol=1e-5)


def test_shapes_do_not_depend_on_the_position_of_the_stride():
    config = ResNetConfig(50, stride_in_1x1=True, width=4)
    usual = ResNetConfig(50, width=4)
    found, expected = (shapes(each, None, (33, 47), "features") for each in (config, usual))
    assert found == expected


def test_initial_values():
    model = ResNet(ResNetConfig(18, width=16), 1000)

    @jit
    def some_parameters(key):  # all would take long to compile
        params = model.init(key, jnp.zeros((1, 32, 32, 3)))["params"]
        return params["fc"], params["layer4_0"], params["bn1"]

    fc, block, norm = some_parameters(jax.random.key(0))
    np.testing.assert_allclose(np.std(fc["kernel"]), 0.01, rtol=0.01)
    assert not fc["bias"].any()
    shortcut = block["downsample_conv"]["kernel"]  # 64 to 128 channels
    np.testing.assert_allclose(np.std(shortcut), np.sqrt(2 / 128), rtol=0.03)
    np.testing.assert_allclose(np.std(block["conv1"]["kernel"]), np.sqrt(2 / (9 * 128)), rtol=0.01)
    assert not block["bn2"]["scale"].any()
    for ones in (norm, block["bn1"], block["downsample_bn"]):
        assert (ones["scale"] == 1).all()
        assert not ones["bias"].any()


def test_running_averages():
    x = images(2, 16, 16, 3)
    model = ResNet(ResNetConfig(18, width=2), None)
    variables = scaled_variables(model, x, method="features")
    apply = functools.partial(model.apply, method="features", mutable=["batch_stats"])
    updates = jit(lambda v, x: apply(v, x, train=True)[1]["batch_stats"]["bn1"])(variables, x)
    convolved = loops.convolve(x, variables["params"]["conv1"]["kernel"])[:, ::2, ::2]
    before = variables["batch_stats"]["bn1"]
    mean = 0.9 * before["mean"] + 0.1 * convolved.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(updates["mean"], mean, atol=1e-6)
    variance = 0.9 * before["var"] + 0.1 * convolved.var(axis=(0, 1, 2))
    np.testing.assert_allclose(updates["var"], variance, rtol=1e-5)


@pytest.mark.parametrize(("depth", "method"), [*((18, method) for method in METHODS), (50, "lip")])
def test_bfloat16_computation_keeps_float32_parameters(depth, method):
    model = ResNet(ResNetConfig(depth, method), 10, dtype=jnp.bfloat16)

    def run(key):
        x = jnp.zeros((1, 33, 32, 3))
        variables = model.init(key, x)
        logits, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
        return variables, updates, logits, model.apply(variables, x, method="features")

    *kept, logits, features = jax.eval_shape(run, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in features} == {jnp.dtype("bfloat16")}


@pytest.mark.slow
def test_bfloat16_logits_are_near_those_of_float32():
    x = images(2, 64, 64, 3)
    config = ResNetConfig(18, "carafe", output_stride=8, width=8)
    rough = ResNet(config, 10, dtype=jnp.bfloat16)
    variables = scaled_variables(rough, x)
    exact = jit(ResNet(config, 10).apply)(variables, x)
    logits, c5 = jit(lambda v: (rough.apply(v, x), rough.apply(v, x, method="features")[3]))(
        variables
    )
    np.testing.assert_allclose(logits, exact, atol=0.03 * float(np.abs(exact).max()))
    # After the last map nothing is rounded to bfloat16.
    fc = variables["params"]["fc"]
    expected = np.asarray(c5, np.float64).mean(axis=(1, 2)) @ fc["kernel"] + fc["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_synchronised_statistics_are_those_of_the_whole_batch():
    x = images(8, 32, 32, 3)
    config = ResNetConfig(18, "carafe", norm="sync_batch", output_stride=8, width=8)
    synchronised = ResNet(config, 4, axis_name="devices")
    variables = scaled_variables(synchronised, x)
    alone = ResNet(dataclasses.replace(config, norm="batch"), 4)

    def step(model, variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    logits, updates = jit(functools.partial(step, alone))(variables, x)
    mapped = jax.pmap(functools.partial(step, synchronised), "devices", in_axes=(None, 0))
    shares, shared_updates = mapped(variables, x.reshape(4, 2, 32, 32, 3))
    np.testing.assert_allclose(shares.reshape(8, 4), logits, rtol=1e-3, atol=1e-3)
    for device in range(4):
        jax.tree.map(
            lambda mine, whole, d=device: np.testing.assert_allclose(
                mine[d], whole, rtol=1e-4, atol=1e-5
            ),
            shared_updates,
            updates,
        )


@pytest.mark.slow
@pytest.mark.parametrize("downsampler", ["carafe", "lip", "dpp"])
def test_training_lowers_the_loss(downsampler):
    x, labels = images(8, 32, 32, 3), np.arange(8) % 4
    model = ResNet(ResNetConfig(18, downsampler, width=8), 4)
    variables = initial(model, x)
    optimizer = optax.sgd(0.05, momentum=0.9)

    @jit
    def step(variables, state):
        def loss(params):
            logits, updates = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

        (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        changes, state = optimizer.update(gradients, state)
        params = optax.apply_updates(variables["params"], changes)
        return {"params": params, **updates}, state, value

    state, losses = optimizer.init(variables["params"]), []
    for _ in range(20):
        variables, state, value = step(variables, state)
        losses.append(float(value))
    assert losses[0] == pytest.approx(np.log(4), abs=0.1)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"depth": 20}, "depth.*18.*20"),
        ({"downsampler": "blur"}, "downsampler.*'carafe'.*'blur'"),
        ({"norm": "group"}, "norm.*'frozen'.*'group'"),
        ({"output_stride": 4}, "output_stride.*32.* 4$"),
        ({"compressed_channels": 0}, "compressed_channels.* 0$"),
        ({"width": 0}, "width.* 0$"),
        ({"stem": "conv3"}, "stem.*'deep'.*'conv3'"),
        ({"stem": "v1c", "width": 5}, "width.*v1c.* 5$"),
        ({"norm_epsilon": -1e-5}, "norm_epsilon.* -1e-05$"),
        ({"depth": 34, "stride_in_1x1": True}, "stride_in_1x1.* 34.* True$"),
        ({"downsampler": "carafe", "stride_in_1x1": True}, "stride_in_1x1.*'carafe'.* True$"),
    ],
)
def test_invalid_configs_are_refused(field, message):
    with pytest.raises(ConfigError, match=message):
        ResNetConfig(**field)


def test_invalid_calls_are_refused():
    with pytest.raises(ValueError, match=r"axis_name.*sync_batch.*None"):
        shapes(ResNetConfig(18, norm="sync_batch"))
    with pytest.raises(ValueError, match=r"num_classes.*None"):
        shapes(ResNetConfig(18), num_classes=None)
