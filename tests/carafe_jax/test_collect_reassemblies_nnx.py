"""NNX: the model does not change, and transformations that stack, drop or move kernels."""

import jax
import pytest
from flax import nnx

import carafe_jax
from carafe_jax.sources import reassemble_chain
from tests.carafe_jax.collected_models import OPTIONS, NNXModel, assert_same, names
from tests.carafe_jax.twins import CHANNELS, X


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
