import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import (
    CHANNELS,
    SMALL,
    X,
    assert_trees_close,
    each_scale,
    random_map,
    twins,
)
from tests.kernels.sharding import (
    collectives,
    each_axis_type,
    over_the_batch,
    replicated,
    run_and_collectives,
)


@pytest.mark.parametrize("transform", [nn.remat, nn.jit])
def test_lifted_linen_layers_are_the_same(transform):
    pair = twins(up=2, **SMALL)
    lifted = transform(carafe_jax.linen.CARAFE)(up=2, **SMALL)

    def gradient(layer):
        return jax.jit(jax.grad(lambda v: jnp.mean(layer.apply(v, X) ** 2)))(pair.variables)

    assert_trees_close(gradient(lifted), gradient(pair.linen), atol=1e-7)


def test_nnx_remat_gives_the_same_gradient():
    layer = twins(up=2, **SMALL).nnx

    def call(layer, x):
        return layer(x)

    def gradient(call):
        gradient = nnx.jit(nnx.grad(lambda layer: jnp.mean(call(layer, X) ** 2)))
        return nnx.to_pure_dict(gradient(layer))

    assert_trees_close(gradient(nnx.remat(call)), gradient(call), atol=1e-7)


@each_axis_type
@each_scale
def test_a_sharded_batch_stays_sharded_and_only_gradients_are_reduced(scale, axis_type):
    pair = twins(**scale, **SMALL)
    x = random_map(jax.local_device_count(), 4, 5, CHANNELS)
    sharding = over_the_batch(axis_type)
    sharded = jax.device_put(x, sharding)
    variables = jax.device_put(pair.variables, replicated(sharding))
    forward = jax.jit(pair.linen.apply)
    y, moved = run_and_collectives(forward, variables, sharded)
    assert y.sharding.is_equivalent_to(sharding, y.ndim)
    np.testing.assert_allclose(y, forward(pair.variables, x), rtol=1e-5, atol=1e-6)
    assert not moved
    gradient = jax.jit(jax.grad(lambda variables, x: jnp.mean(pair.linen.apply(variables, x) ** 2)))
    assert collectives(gradient, variables, sharded) == {"all-reduce"}
