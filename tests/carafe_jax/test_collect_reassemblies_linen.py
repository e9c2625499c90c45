"""Linen: collections of variables, and transformations that stack, drop or move kernels."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

import carafe_jax
from carafe_jax.sources import reassemble_chain
from tests.carafe_jax.collected_models import OPTIONS, LinenModel, assert_same, names
from tests.carafe_jax.twins import X


def test_mutable_collections_are_returned_as_apply_returns_them():
    model = LinenModel(batch_norm=True)
    variables = model.init(jax.random.key(0), X, True)
    options = {"use_running_average": False}
    expected = model.apply(variables, X, mutable=["batch_stats"], **options)
    output, chain = carafe_jax.linen.collect_reassemblies(
        model, variables, X, mutable=["batch_stats"], **options
    )
    assert len(chain) == 2
    assert output[1].keys() == {"batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, output, expected)


@pytest.mark.parametrize("mutable", ["intermediates", True, ["intermediates"]])
def test_intermediates_are_returned_as_apply_returns_them(mutable):
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "reassembly_kernels", x)
            self.sow("intermediates", "carafe_kernels", x)
            x = carafe_jax.linen.CARAFE(up=2, **OPTIONS, name="carafe")(x)
            self.sow("intermediates", "reassembly_kernels", x)
            return x

    model = Sowing()
    variables = {"params": model.init(jax.random.key(0), X)["params"]}
    expected = model.apply(variables, X, mutable=mutable)
    output, (only,) = carafe_jax.linen.collect_reassemblies(model, variables, X, mutable=mutable)
    assert only.name == "carafe"
    assert output[1].keys() == expected[1].keys()
    jax.tree.map(np.testing.assert_array_equal, output, expected)
    # Intermediates of an earlier call stay where they are.
    _, (second,) = carafe_jax.linen.collect_reassemblies(model, {**variables, **output[1]}, X)
    np.testing.assert_array_equal(second.kernels, only.kernels)
    captured, (third,) = carafe_jax.linen.collect_reassemblies(
        model, variables, X, mutable=mutable, capture_intermediates=lambda *_: True
    )
    assert len(captured[1]["intermediates"]["carafe"]["__call__"]) == 1
    np.testing.assert_array_equal(third.kernels, only.kernels)


def test_shared_layers_and_layers_with_mapped_variables_are_collected():
    class Frozen(nn.Module):
        @nn.compact
        def __call__(self, x):
            stop = functools.partial(jax.tree.map, jax.lax.stop_gradient)
            frozen = nn.map_variables(
                carafe_jax.linen.CARAFE, "params", stop, init=self.is_initializing()
            )
            shared = carafe_jax.linen.CARAFE(up=2, **OPTIONS, name="shared")
            return Inner(shared)(shared(frozen(**OPTIONS, name="frozen")(x)))

    class Inner(nn.Module):
        layer: nn.Module

        def __call__(self, x):
            return self.layer(x)

    model = Frozen()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    y, chain = carafe_jax.linen.collect_reassemblies(model, variables, X)
    assert names(chain) == ["frozen", "shared", "shared"]
    assert_same(reassemble_chain(chain, X), y)


def linen_lifted(transform, layer_options=None, **options):
    """A model with three layers in one transformation, and its variables."""

    class Lifted(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(layer, carry, _):
                y = layer(carry)
                return (y, None) if transform is nn.scan else y

            lifted = transform(body, split_rngs={"params": True}, **options)
            layer = carafe_jax.linen.CARAFE(**OPTIONS, name="layer")
            y = lifted(layer, x, None)
            return y[0] if transform is nn.scan else y

    model = Lifted()
    return model, jax.jit(model.init)(jax.random.key(0), X)


LIFTED = {
    "scan": functools.partial(linen_lifted, nn.scan, length=3),
    "vmap": functools.partial(linen_lifted, nn.vmap, in_axes=None, axis_size=3),
}


@pytest.mark.parametrize("name", LIFTED)
def test_linen_stacks_the_kernels_of_a_transformation(name):
    model, variables = LIFTED[name](variable_axes={"params": 0, "intermediates": 0})
    collect = functools.partial(carafe_jax.linen.collect_reassemblies, model)
    y, (only,) = jax.jit(collect)(variables, X)
    assert (only.name, only.size, only.kernels.shape) == ("layer", (5, 6), (3, 2, 5, 6, 9))
    layers = [jax.tree.map(lambda kernels, i=i: kernels[i], only) for i in range(3)]
    if name == "scan":
        assert_same(reassemble_chain(layers, X), y)
    else:
        for layer, each in zip(layers, y, strict=True):
            assert_same(reassemble_chain([layer], X), each)


@pytest.mark.parametrize("name", LIFTED)
@pytest.mark.parametrize("axes", [{"params": 0}, {"params": 0, "intermediates": -1}], ids=str)
def test_linen_refuses_transformations_that_drop_or_move_kernels(name, axes):
    model, variables = LIFTED[name](variable_axes=axes)
    with pytest.raises(ValueError, match=r"'layer'.*intermediates"):
        carafe_jax.linen.collect_reassemblies(model, variables, X)


def test_linen_refuses_a_layer_that_reuses_the_program_of_another_layer():
    class Jitted(nn.Module):
        @nn.compact
        def __call__(self, x):
            jitted = nn.jit(carafe_jax.linen.CARAFE)
            return jitted(**OPTIONS, name="second")(jitted(**OPTIONS, name="first")(x))

    model = Jitted()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"'second'.*nn\.jit"):
        carafe_jax.linen.collect_reassemblies(model, variables, X)
