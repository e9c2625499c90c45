"""Reassemblies that models make in both APIs."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from carafe_jax.sources import reassemble_chain
from tests.carafe_jax.collected_models import (
    OPTIONS,
    LinenModel,
    LinenPair,
    NNXModel,
    NNXPair,
    assert_same,
    names,
)
from tests.carafe_jax.twins import CHANNELS, X


@pytest.fixture(scope="module", params=[LinenPair, NNXPair], ids=["linen", "nnx"])
def pair(request):
    return request.param()


def test_reassemblies_are_in_the_order_of_the_calls_and_compute_the_output(pair):
    y, chain = pair.collect(X)
    np.testing.assert_array_equal(y, pair.call(X))
    assert names(chain) == ["neck/upsample_5", "neck/upsample_4"]
    assert [each.size for each in chain] == [(5, 6), (10, 12)]
    assert [(e.kernel_size, e.up, e.down, e.groups) for e in chain] == [(3, 2, 1, 1), (3, 1, 2, 2)]
    assert [each.kernels.shape for each in chain] == [(2, 10, 12, 9), (2, 5, 6, 18)]
    assert_same(reassemble_chain(chain, X), y)


@pytest.mark.parametrize("method", ["twice", "remat", "jit"])
def test_a_layer_that_is_called_twice_has_two_reassemblies(pair, method):
    if method == "jit":
        pair.collect(X, method=method)  # the second time, programs were compiled before
    y, chain = pair.collect(X, method=method)
    assert names(chain) == ["neck/upsample_4", "neck/upsample_5", "neck/upsample_4"]
    assert [each.size for each in chain] == [(5, 6), (3, 3), (6, 6)]
    assert_same(y, pair.call(X, method="twice"))
    assert_same(reassemble_chain(chain, X), y)


def test_order_and_names_are_kept_under_jit(pair):
    y, chain = jax.jit(functools.partial(pair.collect, method="twice"))(X)
    assert names(chain) == ["neck/upsample_4", "neck/upsample_5", "neck/upsample_4"]
    assert_same(y, pair.call(X, method="twice"))
    assert_same(reassemble_chain(chain, X), y)


def test_kernels_that_a_model_applies_itself_count_once_and_functions_do_not_count(pair):
    y, (only,) = pair.collect(X, method="kernels")
    np.testing.assert_array_equal(y, pair.call(X, method="kernels"))
    assert (only.name, only.size) == ("neck/upsample_5", (5, 6))


def test_predictors_run_once(pair):
    def products(function):
        text = str(jax.make_jaxpr(function)(X))
        return text.count("conv_general_dilated["), text.count("dot_general[")

    assert sum(products(pair.call)) > 0
    assert products(pair.collect) == products(pair.call)


def test_a_layer_without_a_model_has_no_name():
    layer = carafe_jax.linen.CARAFE(up=2, **OPTIONS)
    variables = layer.init(jax.random.key(0), X)
    _, (linen,) = carafe_jax.linen.collect_reassemblies(layer, variables, X)
    layer = carafe_jax.nnx.CARAFE(CHANNELS, up=2, **OPTIONS, rngs=nnx.Rngs(0))
    _, (of_nnx,) = carafe_jax.nnx.collect_reassemblies(layer, X)
    assert names([linen, of_nnx]) == ["", ""]


def test_methods_may_be_functions():
    model, variables = LinenModel(), LinenPair().variables
    expected = names(LinenPair().collect(X, method="twice")[1])
    for method in (LinenModel.twice, lambda model, x: model.twice(x)):
        _, chain = carafe_jax.linen.collect_reassemblies(model, variables, X, method=method)
        assert names(chain) == expected
    model = NNXModel()
    for method in (NNXModel.twice, model.twice, lambda model, x: model.twice(x)):
        _, chain = carafe_jax.nnx.collect_reassemblies(model, X, method=method)
        assert names(chain) == expected
    with pytest.raises(ValueError, match=r"method.*twice"):
        carafe_jax.nnx.collect_reassemblies(model, X, method=NNXModel().twice)


def test_errors_of_the_model_are_passed_on(pair):
    with pytest.raises(ValueError, match=r"x must.*int32"):
        pair.collect(X.astype(np.int32))
