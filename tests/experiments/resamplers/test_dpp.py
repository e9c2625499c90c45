import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers.dpp import DetailPreservingPool, detail_preserving_pool
from tests.compilation import jit
from tests.experiments.resamplers import loops

ZERO = jnp.zeros(1)


def test_a_detail_weighs_more_than_its_surroundings():
    # Mean 1, squared deviations 1, 1, 1, 9, each with 0.001 added, whose mean is 3.001. The
    # weights 1 + x / 3.001 sum to 8.
    x = jnp.array([[0, 0], [0, 4.0]]).reshape(1, 2, 2, 1)
    y = jit(detail_preserving_pool)(x, ZERO, ZERO)
    assert float(y[0, 0, 0, 0]) == pytest.approx(4 * (1 + 9.001 / 3.001) / 8, rel=1e-6)


def test_exponents_of_the_parameters():
    # alpha = ln 3 gives every pixel a weight of 3, lambda = ln 2 squares the reward.
    x = jnp.array([[0, 0], [0, 4.0]]).reshape(1, 2, 2, 1)
    y = jit(detail_preserving_pool)(x, jnp.log(jnp.array([3.0])), jnp.log(jnp.array([2.0])))
    dull, bright = 3 + (1.001 / 3.001) ** 2, 3 + (9.001 / 3.001) ** 2
    assert float(y[0, 0, 0, 0]) == pytest.approx(4 * bright / (3 * dull + bright), rel=1e-6)


def test_a_large_alpha_makes_a_mean():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    y = jit(detail_preserving_pool)(x, ZERO + 20, ZERO)
    np.testing.assert_allclose(y[0, :, :, 0], [[2.5, 4.5], [8.5, 10.5]], rtol=1e-6)


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 2), (1, 1)])
def test_pool_equals_the_loop(size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    alpha, lam = rng.normal(size=(2, 3)).astype(np.float32)
    y = jit(detail_preserving_pool)(x, alpha, lam)
    np.testing.assert_allclose(y, loops.detail_preserving_pool(x, alpha, lam), atol=2e-5)


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 3, 4, 2)).astype(np.float32)
    alpha, lam = np.array([[0.3, -0.2], [0.5, -0.4]], np.float32)
    loops.check_gradients(detail_preserving_pool, loops.detail_preserving_pool, x, alpha, lam)


def test_bfloat16_is_computed_in_float32():
    # bfloat16 cannot represent the mean 257.25 and the deviations from it.
    x = jnp.asarray([[256, 256], [256, 261]], jnp.bfloat16).reshape(1, 2, 2, 1)
    y = jit(detail_preserving_pool)(x, ZERO - 3, ZERO + 1)
    assert y.dtype == jnp.bfloat16
    exact = loops.detail_preserving_pool(x, -3, 1)
    np.testing.assert_array_equal(np.asarray(y), exact.astype(jnp.bfloat16))


def test_layer_starts_at_equal_shares_and_learns_two_vectors():
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    y, variables = jit(DetailPreservingPool().init_with_output)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {"alpha": (3,), "lambda": (3,)}
    np.testing.assert_allclose(y, loops.detail_preserving_pool(x, 0, 0), atol=1e-6)
    variables["params"]["alpha"] += 1.0
    apply = jit(DetailPreservingPool().apply)
    y = apply(variables, x)
    np.testing.assert_allclose(y, loops.detail_preserving_pool(x, 1, 0), atol=1e-6)
    variables["params"]["lambda"] += 0.5
    y = apply(variables, x)
    np.testing.assert_allclose(y, loops.detail_preserving_pool(x, 1, 0.5), atol=1e-6)
