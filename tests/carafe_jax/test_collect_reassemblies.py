"""Models in Linen and NNX with the same layers, and the reassemblies that they make."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from carafe_jax.sources import reassemble_chain
from tests.carafe_jax.twins import CHANNELS, X

OPTIONS = {
    "kernel_size": 3,
    "compressed_channels": None,
    "encoder_init": jax.nn.initializers.normal(0.3),
}


class LinenNeck(nn.Module):
    """Calls layers in another order than the order of their names."""

    batch_norm: bool = False

    def setup(self):
        options = {**OPTIONS, "batch_norm": self.batch_norm}
        self.upsample_5 = carafe_jax.linen.CARAFE(up=2, **options)
        self.upsample_4 = carafe_jax.linen.CARAFE(down=2, groups=2, **options)

    def __call__(self, x, use_running_average=None):
        x = self.upsample_5(x, use_running_average=use_running_average)
        return self.upsample_4(x=x, use_running_average=use_running_average)

    def twice(self, x):
        return self.upsample_4(self.upsample_5(self.upsample_4(x)))

    def kernels(self, x):
        """Applies kernels itself, and once more by the function."""
        kernels = self.upsample_5.reassembly_kernels(x)
        y = carafe_jax.reassemble(x, kernels, kernel_size=3, up=2)
        logits = jnp.zeros((*x.shape[:-1], 9))
        return y + carafe_jax.reassemble(
            carafe_jax.carafe(x, logits, kernel_size=3), kernels, kernel_size=3, up=2
        )


class LinenModel(nn.Module):
    batch_norm: bool = False

    def setup(self):
        self.neck = LinenNeck(self.batch_norm)

    def __call__(self, x, use_running_average=None):
        return self.neck(x, use_running_average)

    def twice(self, x):
        return self.neck.twice(x)

    def kernels(self, x):
        return self.neck.kernels(x)

    def remat(self, x):
        return nn.remat(LinenNeck.twice)(self.neck, x)

    def jit(self, x):
        return nn.jit(LinenNeck.twice)(self.neck, x)


class NNXNeck(nnx.Module):
    def __init__(self, batch_norm, rngs):
        options = {**OPTIONS, "batch_norm": batch_norm, "rngs": rngs}
        self.upsample_5 = carafe_jax.nnx.CARAFE(CHANNELS, up=2, **options)
        self.upsample_4 = carafe_jax.nnx.CARAFE(CHANNELS, down=2, groups=2, **options)

    __call__ = LinenNeck.__call__
    twice = LinenNeck.twice
    kernels = LinenNeck.kernels


class NNXModel(nnx.Module):
    def __init__(self, batch_norm=False, rngs=None):
        self.neck = NNXNeck(batch_norm, rngs or nnx.Rngs(0))

    def __call__(self, x, use_running_average=None):
        return self.neck(x, use_running_average)

    def twice(self, x):
        return self.neck.twice(x)

    def kernels(self, x):
        return self.neck.kernels(x)

    def remat(self, x):
        return nnx.remat(NNXNeck.twice)(self.neck, x)

    def jit(self, x):
        return nnx.jit(NNXNeck.twice)(self.neck, x)


class LinenPair:
    """A Linen model with variables, with the interface of :class:`NNXPair`."""

    def __init__(self):
        self.model = LinenModel()
        self.variables = jax.jit(self.model.init)(jax.random.key(0), X)

    def call(self, x, **options):
        return self.model.apply(self.variables, x, **options)

    def collect(self, x, **options):
        return carafe_jax.linen.collect_reassemblies(self.model, self.variables, x, **options)


class NNXPair:
    def __init__(self):
        self.model = NNXModel()

    def call(self, x, method="__call__"):
        return getattr(self.model, method)(x)

    def collect(self, x, **options):
        return carafe_jax.nnx.collect_reassemblies(self.model, x, **options)


@pytest.fixture(scope="module", params=[LinenPair, NNXPair], ids=["linen", "nnx"])
def pair(request):
    return request.param()


def names(reassemblies):
    return [each.name for each in reassemblies]


def assert_same(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-5, atol=1e-6)


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


# Linen: what the user gives and gets.


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


# NNX: the model does not change.


class Dropped(nnx.Module):
    """A model with batch statistics and a random number generator."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.levels = nnx.List([NNXModel(batch_norm=True, rngs=rngs)])
        self.again = self.levels[0].neck.upsample_5
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.again(self.levels[0](self.dropout(x)))
        self.sow(nnx.Intermediate, "reassembly_kernels", x)
        return x


def test_nnx_does_not_change_the_model():
    model = Dropped()
    model.train()
    graph, state = nnx.split(nnx.clone(model))
    y, chain = carafe_jax.nnx.collect_reassemblies(
        model, X, method=lambda model, x: nnx.capture(model, nnx.Intermediate)(x)[0]
    )
    assert names(chain) == [
        "again",
        "levels/0/neck/upsample_4",
        "again",
    ]
    graph_after, state_after = nnx.split(model)
    assert graph_after == graph
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), state_after, state))
    expected, _ = nnx.capture(model, nnx.Intermediate)(X)
    assert_same(y, expected)
    _, updated = nnx.split(model)  # the same call of the model itself changes it
    assert not jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), updated, state))


def test_nnx_collects_under_its_own_jit():
    model = NNXModel()

    @nnx.jit
    def collect(model, x):
        return carafe_jax.nnx.collect_reassemblies(model, x)

    y, chain = collect(model, X)
    assert names(chain) == ["neck/upsample_5", "neck/upsample_4"]
    assert_same(reassemble_chain(chain, X), y)


class Stack(nnx.Module):
    """Three layers in one module."""

    def __init__(self):
        @nnx.split_rngs(splits=3)
        @nnx.vmap
        def create(rngs):
            return carafe_jax.nnx.CARAFE(CHANNELS, **OPTIONS, rngs=rngs)

        self.layer = create(nnx.Rngs(0))

    def scan(self, x):
        return nnx.scan(lambda x, layer: layer(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(
            x, self.layer
        )

    def vmap(self, x):
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.layer, x)

    def state_axes(self, x):
        axes = nnx.StateAxes({nnx.Intermediate: 0, ...: 0})
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(axes, None))(self.layer, x)

    def lost(self, x):
        axes = nnx.StateAxes({nnx.Param: 0, ...: None})
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(axes, None))(self.layer, x)

    def moved(self, x):
        axes = nnx.StateAxes({nnx.Param: 0, ...: -1})
        return nnx.vmap(lambda layer, x: layer(x), in_axes=(axes, None))(self.layer, x)


@pytest.mark.parametrize("method", ["scan", "vmap", "state_axes"])
def test_nnx_stacks_the_kernels_of_a_transformation(method):
    y, (only,) = carafe_jax.nnx.collect_reassemblies(Stack(), X, method=method)
    assert (only.name, only.size, only.kernels.shape) == ("layer", (5, 6), (3, 2, 5, 6, 9))
    layers = [jax.tree.map(lambda kernels, i=i: kernels[i], only) for i in range(3)]
    if method == "scan":
        assert_same(reassemble_chain(layers, X), y)
    else:
        for layer, each in zip(layers, y, strict=True):
            assert_same(reassemble_chain([layer], X), each)


class Closed(nnx.Module):
    def __init__(self):
        self.layer = carafe_jax.nnx.CARAFE(CHANNELS, **OPTIONS, rngs=nnx.Rngs(0))

    def checkpoint(self, x):
        return jax.checkpoint(lambda x: self.layer(x))(x)

    def argument(self, x):
        return jax.jit(lambda layer, x: layer(x))(self.layer, x)


@pytest.mark.parametrize(
    ("model", "method"),
    [(Stack, "lost"), (Stack, "moved"), (Closed, "checkpoint"), (Closed, "argument")],
)
def test_nnx_refuses_transformations_that_drop_or_move_kernels(model, method):
    getattr(model(), method)(X)
    with pytest.raises(ValueError, match=r"'layer'.*intermediates"):
        carafe_jax.nnx.collect_reassemblies(model(), X, method=method)


def test_errors_of_the_model_are_passed_on(pair):
    with pytest.raises(ValueError, match=r"x must.*int32"):
        pair.collect(X.astype(np.int32))
