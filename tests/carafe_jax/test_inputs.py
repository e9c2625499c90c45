"""Inputs that Flax's own layers take, and dtypes without implicit promotion."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, X, random_map, twins
from tests.kernels.cases import Case
from tests.kernels.errors import naming
from tests.slow import slow


class Wrapped:
    """An array behind ``__jax_array__``."""

    def __init__(self, array):
        self.array = jnp.asarray(array)

    def __jax_array__(self):
        return self.array


WRAPPERS = [nnx.Param, Wrapped, *map(slow, [nnx.Variable, nnx.BatchStat])]
each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS, ids=lambda wrap: wrap.__name__)
SECONDS = {
    "reassemble": random_map(2, 10, 12, 9, seed=1),
    "carafe": random_map(2, 5, 6, 36, seed=1),
    "reassembly_kernels": random_map(2, 5, 6, 36, seed=1),
}


@each_wrapper
@pytest.mark.parametrize("form", SECONDS)
def test_functions_take_variables_eagerly_and_traced(form, wrap):
    call = functools.partial(getattr(carafe_jax, form), kernel_size=3, up=2)
    expected = call(X, SECONDS[form])
    np.testing.assert_array_equal(call(wrap(X), wrap(SECONDS[form])), expected)
    traced = jax.jit(lambda *arrays: call(*map(wrap, arrays)))
    np.testing.assert_allclose(traced(X, SECONDS[form]), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [slow(None), jnp.bfloat16], ids=str)
@each_wrapper
def test_layers_take_variables_eagerly_and_traced(wrap, dtype):
    linen, variables, layer = twins(up=2, dtype=dtype, **SMALL)
    expected = linen.apply(variables, X)

    def check(y):
        np.testing.assert_allclose(np.float32(y), np.float32(expected), rtol=1e-2, atol=1e-2)

    check(linen.apply(variables, wrap(X)))
    check(jax.jit(lambda x: linen.apply(variables, wrap(x)))(X))
    check(layer(wrap(X)))
    check(nnx.jit(lambda layer, x: layer(wrap(x)))(layer, X))
    assert linen.init(jax.random.key(0), wrap(X)).keys() == {"params"}


def test_a_variable_of_a_module_has_a_gradient():
    x = nnx.Param(jnp.asarray(X))
    weights = SECONDS["reassemble"]
    reassemble = functools.partial(carafe_jax.reassemble, weights=weights, kernel_size=3, up=2)
    gradient = nnx.grad(lambda x: jnp.sum(reassemble(x) ** 2))(x)
    expected = jax.grad(lambda x: jnp.sum(reassemble(x) ** 2))(X)
    np.testing.assert_allclose(gradient[...], expected, rtol=1e-5, atol=1e-5)


# Strict promotion

DTYPES = ["bfloat16", "float16", "float32"]


@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid", "sigmoid_normalized"])
@pytest.mark.parametrize(("dtype", "other"), [*itertools.product(DTYPES, DTYPES)])
def test_functions_and_gradients_promote_no_dtype_implicitly(dtype, other, normalizer):
    case = Case(3, up=3, down=2, size=(3, 4))
    x = jnp.ones(case.x_shape, dtype)

    def gradients(function, second):
        def loss(*a):
            return jnp.sum(function(*a, **case.options).astype(jnp.float32))

        return jax.eval_shape(jax.grad(loss, argnums=(0, 1)), x, second)

    with jax.numpy_dtype_promotion("strict"):
        carafe = functools.partial(carafe_jax.carafe, normalizer=normalizer)
        found = gradients(carafe, jnp.ones(case.logits_shape, other))
        assert [gradient.dtype for gradient in found] == [dtype, other]
        found = gradients(carafe_jax.reassemble, jnp.ones(case.weights_shape, other))
        assert [gradient.dtype for gradient in found] == [dtype, other]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{"up": 2}, {"down": 2, "batch_norm": True}], ids=str)
def test_layers_and_gradients_promote_no_dtype_implicitly(options, dtype):
    linen, variables, layer = twins(dtype=dtype, **options, **SMALL)
    x = jnp.asarray(X, dtype)
    mutable = ["batch_stats"] if "batch_norm" in options else False
    if mutable:
        linen = linen.clone(use_running_average=False)

    def loss(variables, x):
        y = linen.apply(variables, x, mutable=mutable)
        return jnp.sum((y[0] if mutable else y).astype(jnp.float32))

    with jax.numpy_dtype_promotion("strict"):
        gradients = jax.eval_shape(jax.grad(loss, argnums=(0, 1)), variables, x)
        assert gradients[1].dtype == dtype
        assert nnx.eval_shape(lambda layer: layer(x), layer).dtype == dtype


# Sizes


@pytest.mark.parametrize("name", ["up", "down", "kernel_size", "groups"])
def test_arrays_are_refused_as_sizes_eagerly_and_traced(name):
    def call(value):
        return carafe_jax.reassemble(X, SECONDS["reassemble"], **{"kernel_size": 3, name: value})

    with pytest.raises(ValueError, match=naming(name, "not an array", "Array(1")):
        call(jnp.int32(1))
    with pytest.raises(ValueError, match=naming(name, "not an array", "int32[]")):
        jax.jit(call)(jnp.int32(1))
    with pytest.raises(ValueError, match=naming(name, "not an array", "int32[]")):
        jax.jit(lambda: call(jnp.int32(1)))()


@pytest.mark.parametrize("name", ["up", "down", "kernel_size", "groups"])
def test_layers_refuse_arrays_as_sizes(name):
    with pytest.raises(ValueError, match=naming(name, "not an array", "Array(1")):
        carafe_jax.linen.CARAFE(**{name: jnp.int32(1)}).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=naming(name, "not an array", "Array(1")):
        carafe_jax.nnx.CARAFE(CHANNELS, **{name: jnp.int32(1)}, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("integer", [np.int32, np.uint8, slow(np.int64)])
def test_numpy_integers_are_sizes(integer):
    weights = SECONDS["reassemble"]
    y = carafe_jax.reassemble(X, weights, kernel_size=integer(3), up=integer(2))
    np.testing.assert_array_equal(y, carafe_jax.reassemble(X, weights, kernel_size=3, up=2))
