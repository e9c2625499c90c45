"""Both layers learn, under every way to run a training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.carafe_jax.twins import CHANNELS, SMALL, random_map, twins

STEPS = 30
LEARNING_RATE = 10.0
TRAINED = {"up": 2, "batch_norm": True, "encoder_scale": None, **SMALL}
TRAIN_X = random_map(4, 5, 6, CHANNELS)
TRAIN_Y = TRAIN_X.repeat(2, axis=1).repeat(2, axis=2)


def squared_error(y, target):
    return jnp.mean((y - target) ** 2)


def descend(params, gradients):
    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradients)


def linen_step(layer, variables, x, target):
    def loss(params):
        y, updated = layer.apply(
            {**variables, "params": params}, x, use_running_average=False, mutable=["batch_stats"]
        )
        return squared_error(y, target), updated

    (value, updated), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
    if layer.axis_name:
        value, gradients, updated = jax.lax.pmean((value, gradients, updated), layer.axis_name)
    return {"params": descend(variables["params"], gradients), **updated}, value


def nnx_step(layer, x, target, axis_name=None, graph=None):
    def loss(layer):
        return squared_error(layer(x), target)

    value, gradients = nnx.value_and_grad(loss, graph=graph)(layer)
    gradients = nnx.state(gradients, nnx.Param)  # in tree mode they are a layer
    if axis_name:
        value, gradients = jax.lax.pmean((value, gradients), axis_name)
    nnx.update(layer, descend(nnx.state(layer, nnx.Param), gradients))
    return value


def train(step, state):
    losses = []
    for _ in range(STEPS):
        state, loss = step(state)
        losses.append(float(np.ravel(loss)[0]))
    assert losses[-1] < 0.7 * losses[0]
    return losses


def train_linen_under_jit():
    pair = twins(**TRAINED)
    step = jax.jit(functools.partial(linen_step, pair.linen))
    return train(lambda variables: step(variables, TRAIN_X, TRAIN_Y), pair.variables)


def train_linen_under_pmap():
    pair = twins(**TRAINED, axis_name="devices")
    step = jax.pmap(
        functools.partial(linen_step, pair.linen),
        axis_name="devices",
        in_axes=(None, 0, 0),
        out_axes=None,
    )
    return train(
        lambda variables: step(variables, TRAIN_X[:, None], TRAIN_Y[:, None]), pair.variables
    )


def train_nnx_under_jit():
    layer = twins(**TRAINED).nnx
    step = nnx.jit(nnx_step)
    return train(lambda layer: (layer, step(layer, TRAIN_X, TRAIN_Y)), layer)


def train_nnx_under_pmap():
    layer = twins(**TRAINED, axis_name="devices").nnx
    graph, state = nnx.split(layer)

    def step(state, x, target):
        layer = nnx.merge(graph, state)
        loss = nnx_step(layer, x, target, axis_name="devices")
        return nnx.state(layer), loss

    step = jax.pmap(step, axis_name="devices", in_axes=(None, 0, 0), out_axes=None)
    return train(lambda state: step(state, TRAIN_X[:, None], TRAIN_Y[:, None]), state)


def train_nnx_in_tree_mode():
    layer = twins(**TRAINED).nnx
    with nnx.set_graph_mode(False):
        step = nnx.jit(functools.partial(nnx_step, graph=False), graph=False)
        return train(lambda layer: (layer, step(layer, TRAIN_X, TRAIN_Y)), layer)


@pytest.fixture(scope="module")
def reference_losses():
    return train_linen_under_jit()


@pytest.mark.parametrize(
    "trained",
    [train_linen_under_pmap, train_nnx_under_jit, train_nnx_under_pmap, train_nnx_in_tree_mode],
)
def test_layers_train_alike_however_they_are_run(trained, reference_losses):
    np.testing.assert_allclose(trained(), reference_losses, rtol=1e-3)
