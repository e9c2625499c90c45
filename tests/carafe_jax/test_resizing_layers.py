"""Layers that are called with a size or a scale."""

import functools
from fractions import Fraction

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, X, twins
from tests.kernels import oracle
from tests.kernels.errors import naming
from tests.slow import slow

HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("target", "offset_features"),
    [slow({"size": (9, 7)}, None), ({"scale": Fraction(17, 10)}, 3), slow({"scale": HALF}, 3)],
)
def test_both_layers_compute_carafe_of_their_logits(target, offset_features):
    linen, variables, layer = twins(up=2, offset_features=offset_features, **SMALL)
    y = linen.apply(variables, X, **target)
    np.testing.assert_allclose(layer(X, **target), y, rtol=1e-5, atol=1e-5)
    kernels = linen.apply(variables, X, method="reassembly_kernels", **target)
    np.testing.assert_allclose(layer.reassembly_kernels(X, **target), kernels, rtol=1e-5, atol=1e-6)
    y_again = carafe_jax.reassemble(X, kernels, kernel_size=3, **target)
    np.testing.assert_allclose(y_again, y, rtol=1e-5, atol=1e-5)
    if offset_features is None:
        logits = layer.kernel_predictor(X)
        expected = carafe_jax.carafe(X, logits, kernel_size=3, up=2, **target)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_a_size_is_a_static_argument_of_lifted_transformations():
    linen, variables, _ = twins(up=2, **SMALL)
    expected = linen.apply(variables, X, size=(9, 7))
    for lift in (nn.remat, nn.jit):
        lifted = lift(carafe_jax.linen.CARAFE, static_argnums=(3, 4))(up=2, **SMALL)
        found = lifted.apply(variables, X, None, (9, 7), None)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", slow("float32")])
def test_offsets_need_no_promotion(dtype):
    options = {"up": 2, "offset_features": 3, "param_dtype": dtype, **SMALL}
    x = jax.ShapeDtypeStruct((1, 5, 6, CHANNELS), dtype)
    linen = carafe_jax.linen.CARAFE(**options)
    layer = nnx.eval_shape(lambda: carafe_jax.nnx.CARAFE(CHANNELS, **options, rngs=nnx.Rngs(0)))
    with jax.numpy_dtype_promotion("strict"):
        key = jax.random.key(0)
        y, _ = jax.eval_shape(lambda key, x: linen.init_with_output(key, x, size=(9, 7)), key, x)
        again = nnx.eval_shape(lambda layer, x: layer(x, size=(9, 7)), layer, x)
    assert y.dtype == again.dtype == dtype


def test_a_layer_has_the_same_parameters_with_and_without_a_size():
    layer = carafe_jax.linen.CARAFE(up=2, offset_features=3, **SMALL)
    key = jax.random.key(0)
    by_size, by_up = layer.init(key, X, size=(9, 7)), layer.init(key, X)
    jax.tree.map(np.testing.assert_array_equal, by_size, by_up)


def test_parameters_of_a_strided_layer_downsample_in_a_layer_without_stride():
    strided, variables, _ = twins(down=2, **SMALL)
    with pytest.raises(ValueError, match=naming("down", "1", "scale", "2")):
        strided.apply(variables, X, scale=HALF)
    y = carafe_jax.linen.CARAFE(**SMALL).apply(variables, X, scale=HALF)
    np.testing.assert_allclose(y, strided.apply(variables, X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [{"scale": 2}, {"scale": 1}, {"scale": HALF}, {}], ids=str)
def test_offsets_vanish_at_the_scale_of_the_predictor_and_at_its_fractions(target):
    options = {"up": 2, **SMALL}
    linen, variables, layer = twins(**options)
    with_offsets, more, layer_with_offsets = twins(**options, offset_features=3)
    shared = {"params": variables["params"] | {"offset_predictor": random_offset_predictor(more)}}
    nnx.update(layer_with_offsets, nnx.state(layer))
    expected = linen.apply(variables, X, **target)
    np.testing.assert_array_equal(with_offsets.apply(shared, X, **target), expected)


def random_offset_predictor(variables):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda each: rng.standard_normal(each.shape, np.float32),
        variables["params"]["offset_predictor"],
    )


def test_the_offset_predictor_is_a_network_of_two_layers_of_offset_and_scale():
    linen, variables, _ = twins(up=2, offset_features=3, **SMALL)
    params = random_offset_predictor(variables)
    variables = {"params": variables["params"] | {"offset_predictor": params}}
    size, map_size = (9, 7), X.shape[1:3]
    found = linen.apply(variables, X, size=size, method="reassembly_kernels")
    offset_logits = np.zeros((*size, 9))

    def network(*inputs):
        hidden = np.dot(inputs, params["hidden"]["kernel"]) + params["hidden"]["bias"]
        return np.maximum(hidden, 0) @ params["logits"]["kernel"]

    scales = [Fraction(n, m) for n, m in zip(size, map_size, strict=True)]
    for i in range(size[0]):
        for j in range(size[1]):
            u, v = (float(2 * index / s % 1) for index, s in zip((i, j), scales, strict=True))
            reciprocals = [float(1 / s) for s in scales]
            offset_logits[i, j] = network(u, v, *reciprocals) - network(0, 0, *reciprocals)
    logits = linen.apply(variables, X, method=lambda layer, x: layer.kernel_predictor(x))
    expected = oracle.resized_kernels(
        logits, scales, "softmax", kernel_size=3, up=2, offset_logits=offset_logits
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset_features", [0, 2.5])
def test_a_wrong_number_of_offset_features_is_refused(offset_features):
    expected = naming("offset_features", offset_features)
    with pytest.raises(ValueError, match=expected):
        carafe_jax.linen.CARAFE(offset_features=offset_features).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=expected):
        carafe_jax.nnx.CARAFE(CHANNELS, offset_features=offset_features, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("api", ["linen", "nnx"])
def test_collected_reassemblies_have_the_scale_of_the_call(api):
    linen, variables, layer = twins(up=2, **SMALL)
    if api == "linen":
        collect = functools.partial(carafe_jax.linen.collect_reassemblies, linen, variables)
    else:
        collect = functools.partial(carafe_jax.nnx.collect_reassemblies, layer)
    y, (step,) = collect(X, size=(9, 7))
    assert (step.up, step.down) == (1, 1)
    assert step.scale == (Fraction(9, 5), Fraction(7, 6))
    assert step.output_size == (9, 7)
    chained = carafe_jax.sources.reassemble_chain([step], X)
    np.testing.assert_allclose(chained, y, rtol=1e-5, atol=1e-5)
    _, (step,) = collect(X)
    assert (step.up, step.down, step.scale) == (2, 1, None)


@pytest.mark.parametrize("api", ["linen", slow("nnx")])
def test_a_cropped_call_keeps_the_kernels_of_the_whole_map(api):
    linen, variables, layer = twins(up=2, **SMALL)
    if api == "linen":
        collect = functools.partial(carafe_jax.linen.collect_reassemblies, linen, variables)
        kernels = linen.apply(variables, X, size=(9, 12), method="reassembly_kernels")
    else:
        collect = functools.partial(carafe_jax.nnx.collect_reassemblies, layer)
        kernels = layer.reassembly_kernels(X, size=(9, 12))
    y, (step,) = collect(X, size=(9, 12))
    assert (step.up, step.scale, step.output_size) == (2, None, (10, 12))
    np.testing.assert_array_equal(kernels, step.kernels[:, :9])
    whole, _ = collect(X)
    np.testing.assert_array_equal(y, whole[:, :9])
