import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.layers import Classifier, ConvNormReLU
from tests.compilation import jit
from tests.experiments.segmentation.model.head_loops import Layers
from tests.experiments.variables import scaled_variables

BATCH = SegmenterConfig(norm="batch")
KEY = jax.random.key(0, impl="rbg")


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 3])
def test_the_layer_equals_the_loops(size):
    x, layer = random_map(2, 4, 3, 5), ConvNormReLU(BATCH, 6, size)
    variables = scaled_variables(layer, x)
    nested = {name: {"layer": tree} for name, tree in variables.items()}
    expected = Layers(nested).normalized("layer", x)
    assert 0.2 < (expected == 0).mean() < 0.8
    np.testing.assert_allclose(jit(layer.apply)(variables, x), expected, atol=1e-5)


def test_initial_values():
    variables = jit(ConvNormReLU(BATCH, 64, 3).init)(KEY, jnp.zeros((1, 3, 3, 32)))
    params, stats = variables["params"], variables["batch_stats"]["bn"]
    assert set(params["conv"]) == {"kernel"}
    deviation = np.sqrt(2 / (9 * 32))
    np.testing.assert_allclose(np.std(params["conv"]["kernel"]), deviation, rtol=0.02)
    np.testing.assert_array_equal(params["bn"]["scale"], 1)
    np.testing.assert_array_equal(params["bn"]["bias"], np.float32(1e-4))
    np.testing.assert_array_equal(stats["mean"], 0)
    np.testing.assert_array_equal(stats["var"], 1)
    conv = jit(Classifier(300, 0.0).init)(KEY, jnp.zeros((1, 1, 1, 32)))["params"]["conv"]
    np.testing.assert_allclose(np.std(conv["kernel"]), np.sqrt(2 / 32), rtol=0.02)
    np.testing.assert_array_equal(conv["bias"], 0)


def test_running_averages():
    x, layer = random_map(2, 3, 4, 5), ConvNormReLU(BATCH, 6)
    variables = scaled_variables(layer, x)
    train = jit(functools.partial(layer.apply, train=True, mutable=["batch_stats"]))
    y, updates = train(variables, x)
    before, after = variables["batch_stats"]["bn"], updates["batch_stats"]["bn"]
    convolved = np.asarray(x, np.float64) @ variables["params"]["conv"]["kernel"][0, 0]
    mean, variance = convolved.mean(axis=(0, 1, 2)), convolved.var(axis=(0, 1, 2))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * variance, rtol=1e-5)
    norm = variables["params"]["bn"]
    expected = (convolved - mean) / np.sqrt(variance + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "sync_batch"])
def test_only_synchronised_norms_have_the_statistics_of_all_devices(norm):
    x = random_map(4, 2, 3, 4, 5) + np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1, 1)
    layer = ConvNormReLU(SegmenterConfig(norm=norm), 6, axis_name="devices")
    alone = ConvNormReLU(BATCH, 6)
    variables = scaled_variables(alone, x[0])

    def step(layer, variables, x):
        return layer.apply(variables, x, train=True, mutable=["batch_stats"])

    mapped = jax.pmap(functools.partial(step, layer), "devices", in_axes=(None, 0))
    shares, _ = mapped(variables, x)
    whole, _ = jit(functools.partial(step, alone))(variables, x.reshape(8, 3, 4, 5))
    difference = np.abs(np.asarray(shares).reshape(8, 3, 4, 6) - whole).max()
    assert difference < 1e-4 if norm == "sync_batch" else difference > 0.1


def test_synchronised_norms_need_an_axis():
    layer = ConvNormReLU(SegmenterConfig(norm="sync_batch"), 6)
    with pytest.raises(ValueError, match=r"axis_name.*sync_batch.*None"):
        jax.eval_shape(layer.init, KEY, jnp.zeros((1, 2, 2, 3)))


def test_dropout_drops_whole_channels_in_training_only():
    x, layer = np.ones((4, 3, 2, 100), np.float32), Classifier(100, 0.25)
    variables = {"params": {"conv": {"kernel": np.eye(100)[None, None], "bias": np.zeros(100)}}}
    np.testing.assert_array_equal(layer.apply(variables, x), x)
    dropped = np.asarray(layer.apply(variables, x, train=True, rngs={"dropout": KEY}))
    np.testing.assert_allclose(np.unique(dropped), [0, 4 / 3], rtol=1e-6)
    channels = dropped[:, 0, 0]
    np.testing.assert_array_equal(dropped, np.broadcast_to(channels[:, None, None], x.shape))
    assert 0.15 < (channels == 0).mean() < 0.35
    assert (channels[0] != channels[1]).any()


def test_no_random_numbers_are_needed_without_dropout():
    x, layer = random_map(1, 2, 2, 3), Classifier(4, 0.0)
    variables = scaled_variables(layer, x)
    np.testing.assert_array_equal(layer.apply(variables, x, train=True), layer.apply(variables, x))


def test_logits_are_float32():
    layer = Classifier(4, 0.0)
    x = jax.ShapeDtypeStruct((1, 2, 2, 3), jnp.bfloat16)
    y, _ = jax.eval_shape(layer.init_with_output, KEY, x)
    assert y.dtype == jnp.float32
