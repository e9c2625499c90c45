import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, X, each_scale, nnx_variables, random_map


def box_filter(x, k, up, down):
    r = k // 2
    sums = jax.lax.reduce_window(
        x, 0.0, jax.lax.add, (1, k, k, 1), (1, down, down, 1), [(0, 0), (r, r), (r, r), (0, 0)]
    )
    return np.repeat(np.repeat(sums / k**2, up, axis=1), up, axis=2)


@each_scale
def test_training_starts_near_a_box_filter(scale):
    x = random_map(2, 6, 8, 32)
    linen_y, _ = carafe_jax.linen.CARAFE(**scale).init_with_output(jax.random.key(0), x)
    nnx_y = carafe_jax.nnx.CARAFE(32, **scale, rngs=nnx.Rngs(0))(x)
    expected = box_filter(x, 5, scale.get("up", 1), scale.get("down", 1))
    for y in (linen_y, nnx_y):
        assert 1e-4 < jnp.sqrt(jnp.mean((y - expected) ** 2)) < 1e-2


@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid_normalized"])
@each_scale
def test_a_zero_encoder_is_a_box_filter(scale, normalizer):
    layer = carafe_jax.nnx.CARAFE(
        CHANNELS,
        **scale,
        normalizer=normalizer,
        encoder_init=jax.nn.initializers.zeros,
        rngs=nnx.Rngs(0),
    )
    expected = box_filter(X, 5, scale.get("up", 1), scale.get("down", 1))
    np.testing.assert_allclose(layer(X), expected, rtol=1e-5, atol=1e-6)


def test_twins_use_the_initializers_they_are_given():
    constant = jax.nn.initializers.constant
    inits = {
        "compressor_init": constant(1.0),
        "encoder_init": constant(2.0),
        "bias_init": constant(3.0),
    }
    linen_variables = carafe_jax.linen.CARAFE(up=2, **SMALL, **inits).init(jax.random.key(0), X)
    layer = carafe_jax.nnx.CARAFE(CHANNELS, up=2, **SMALL, **inits, rngs=nnx.Rngs(0))
    for variables in (linen_variables, nnx_variables(layer)):
        predictor = variables["params"]["kernel_predictor"]
        for module, kernel in (("channel_compressor", 1.0), ("content_encoder", 2.0)):
            assert (predictor[module]["kernel"] == kernel).all()
            assert (predictor[module]["bias"] == 3.0).all()
