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


@pytest.mark.parametrize(("batch_norm", "use_running_average"), [(False, None), (True, True)])
def test_a_size_is_a_static_argument_of_lifted_transformations(batch_norm, use_running_average):
    options = {"up": 2, "batch_norm": batch_norm, **SMALL}
    linen, variables, _ = twins(**options)
    expected = linen.apply(variables, X, use_running_average, size=(9, 7))
    for lift in (nn.remat, nn.jit):
        lifted = lift(carafe_jax.linen.CARAFE, static_argnums=(2, 3, 4))(**options)
        found = lifted.apply(variables, X, use_running_average, (9, 7), None)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [(9, 7), 0, HALF, np.zeros(2, bool)], ids=repr)
@pytest.mark.parametrize("method", ["__call__", "reassembly_kernels"])
def test_a_size_in_the_place_of_use_running_average_is_refused(value, method):
    linen, variables, layer = twins(up=2, **SMALL)
    with pytest.raises(ValueError, match=naming("use_running_average", repr(value))):
        linen.apply(variables, X, value, method=method)
    with pytest.raises(ValueError, match=naming("use_running_average", repr(value))):
        getattr(layer, method)(X, value)


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array(True), jax.numpy.array(True)])
def test_use_running_average_may_be_any_boolean(value):
    linen, variables, layer = twins(up=2, batch_norm=True, **SMALL)
    expected = linen.apply(variables, X, True)
    np.testing.assert_array_equal(linen.apply(variables, X, value), expected)
    np.testing.assert_allclose(layer(X, value), expected, rtol=1e-5, atol=1e-5)


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


@pytest.mark.parametrize(
    "target", [{"scale": 2}, {"scale": 1}, {"scale": HALF}, {"size": (9, 11)}, {}], ids=str
)
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


def test_a_layer_that_predicts_by_cells_has_no_offsets():
    expected = naming("offset_features", "3", "down", "2")
    with pytest.raises(ValueError, match=expected):
        carafe_jax.linen.CARAFE(down=2, offset_features=3).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=expected):
        carafe_jax.nnx.CARAFE(CHANNELS, down=2, offset_features=3, rngs=nnx.Rngs(0))


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
