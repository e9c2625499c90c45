import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, X, abstract_variables, twins


def test_linen_sows_the_kernels_it_applies_when_asked():
    pair = twins(up=2, **SMALL)
    y, collections = pair.linen.apply(pair.variables, X, mutable=["intermediates"])
    (kernels,) = collections["intermediates"]["reassembly_kernels"]
    np.testing.assert_allclose(
        carafe_jax.reassemble(X, kernels, kernel_size=3, up=2), y, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(kernels.sum(axis=-1), np.ones(kernels.shape[:-1]), rtol=1e-6)
    np.testing.assert_array_equal(pair.linen.apply(pair.variables, X), y)


class Pyramid(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = carafe_jax.linen.CARAFE(up=2, **SMALL)(x)
        return x


def test_kernels_of_nested_layers_are_sown_under_their_names():
    variables = Pyramid().init(jax.random.key(0), X)
    _, collections = Pyramid().apply(variables, X, mutable=["intermediates"])
    shapes = jax.tree.map(jnp.shape, collections["intermediates"])
    assert shapes == {
        "CARAFE_0": {"reassembly_kernels": ((2, 10, 12, 9),)},
        "CARAFE_1": {"reassembly_kernels": ((2, 20, 24, 9),)},
    }


def test_nothing_is_sown_without_asking():
    pair = twins(up=2, batch_norm=True, **SMALL)
    initial, _ = abstract_variables(CHANNELS, {"up": 2, "batch_norm": True, **SMALL})
    assert initial.keys() == {"params", "batch_stats"}
    _, collections = pair.linen.apply(
        pair.variables, X, use_running_average=False, mutable=["batch_stats"]
    )
    assert collections.keys() == {"batch_stats"}
