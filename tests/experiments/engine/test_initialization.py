import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine.initialization import draw_variables, initial_key

INPUT = jax.ShapeDtypeStruct((1, 3), jnp.float32)


def test_what_is_drawn_depends_on_the_key_alone():
    kernels = [
        draw_variables(nn.Dense(4), initial_key(seed), INPUT)["params"]["kernel"]
        for seed in (0, 0, 1)
    ]
    assert kernels[0].shape == (3, 4)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (np.asarray(kernels[0]) != kernels[2]).any()


def test_a_network_is_drawn_through_the_named_method():
    class Network(nn.Module):
        @nn.compact
        def layers(self, x):
            return nn.Dense(2, name="dense")(x)

    variables = draw_variables(Network(), initial_key(0), INPUT, method="layers")
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "dense": {"bias": (2,), "kernel": (3, 2)}
    }
