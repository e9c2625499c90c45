import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers.lip import (
    ImportanceHead,
    ImportanceTrunk,
    SimplifiedLIP,
    local_importance_pool,
)
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables

SIZES = [(6, 4), (5, 7), (1, 2), (1, 1)]


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def means_of_3x3(x):
    return loops.pooled(x, 3, 1, lambda pixels, *_: pixels.mean(axis=0))


def test_weights_are_normalised_over_the_taps_in_the_map():
    # Weights 1, 2, 3; the windows are the first two pixels and the last two.
    x = jnp.array([1.0, 2, 4]).reshape(1, 1, 3, 1)
    logits = jnp.log(jnp.array([1.0, 2, 3])).reshape(1, 1, 3, 1)
    y = jit(local_importance_pool)(x, logits)
    np.testing.assert_allclose(y[0, 0, :, 0], [(1 + 4) / 3, (4 + 12) / 5], rtol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_pool_equals_the_loop(size):
    x, logits = random_map(2, 2, *size, 3)
    y = jit(local_importance_pool)(x, 5 * logits)
    np.testing.assert_allclose(y, loops.local_importance_pool(x, 5 * logits), atol=1e-5)


def test_gradients_equal_finite_differences():
    x, logits = random_map(2, 1, 4, 3, 2)
    loops.check_gradients(local_importance_pool, loops.local_importance_pool, x, logits)


def test_bfloat16_is_computed_in_float32():
    # The windows have weights 1, 2 and 2, 2; bfloat16 cannot represent their sums, 511 and 1026.
    x = jnp.asarray([1, 255, 258], jnp.bfloat16).reshape(1, 1, 3, 1)
    logits = jnp.log(jnp.array([1.0, 2, 2])).reshape(1, 1, 3, 1)
    y = jit(local_importance_pool)(x, logits)
    assert y.dtype == jnp.bfloat16
    exact = np.array([511 / 3, 1026 / 4])
    np.testing.assert_array_equal(np.asarray(y).ravel(), exact.astype(jnp.bfloat16))


def test_logits_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"logits.*\(1, 2, 2, 3\).*\(1, 2, 2, 1\)"):
        local_importance_pool(jnp.ones((1, 2, 2, 3)), jnp.ones((1, 2, 2, 1)))


def test_simplified_network_starts_as_a_mean():
    x = random_map(2, 5, 4, 3)
    y, _ = jit(SimplifiedLIP().init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(y, means_of_3x3(x), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_simplified_network_equals_the_loops(size):
    x = random_map(2, *size, 3)
    variables = random_variables(SimplifiedLIP(), x)
    params = variables["params"]
    assert {k: set(v) for k, v in params.items()} == {"conv": {"kernel"}, "norm": {"scale", "bias"}}
    logits = loops.convolve(x, params["conv"]["kernel"])
    logits = loops.gate(loops.instance_norm(logits, params["norm"]))
    expected = loops.local_importance_pool(x, logits)
    y = jit(SimplifiedLIP().apply)(variables, x)
    np.testing.assert_allclose(y, expected, atol=2e-4)


def test_trunk_equals_the_loops():
    x = random_map(2, 5, 4, 3)
    variables = random_variables(ImportanceTrunk(), x)
    expected = x
    for number in (1, 2):
        expected = loops.convolve(expected, variables["params"][f"conv{number}"]["kernel"])
        expected = loops.instance_norm(expected, variables["params"][f"norm{number}"])
        expected = np.maximum(expected, 0)
    y = jit(ImportanceTrunk().apply)(variables, x)
    np.testing.assert_allclose(y, expected, atol=2e-4)


def test_head_equals_the_loops_and_starts_as_a_mean():
    x, trunk = random_map(2, 5, 4, 3), random_map(2, 5, 4, 128)
    y, _ = jit(ImportanceHead().init_with_output)(jax.random.key(0), x, trunk)
    np.testing.assert_allclose(y, means_of_3x3(x), atol=1e-6)
    variables = random_variables(ImportanceHead(), x, trunk)
    logits = loops.convolve(trunk, variables["params"]["conv"]["kernel"])
    logits = loops.gate(loops.instance_norm(logits, variables["params"]["norm"]))
    expected = loops.local_importance_pool(x, logits)
    y = jit(ImportanceHead().apply)(variables, x, trunk)
    np.testing.assert_allclose(y, expected, atol=2e-4)


def test_instance_statistics_are_float32_in_bfloat16():
    # bfloat16 can represent 1000 + 4n, but not the differences between their squares.
    x = jnp.asarray(1000 + 4 * np.arange(16).reshape(1, 4, 4, 1), jnp.bfloat16)
    layer = SimplifiedLIP(dtype=jnp.bfloat16)
    variables = jit(layer.init)(jax.random.key(0), x)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    variables["params"]["conv"]["kernel"] = kernel
    y = jit(layer.apply)(variables, x)
    assert y.dtype == jnp.bfloat16
    assert variables["params"]["norm"]["scale"].dtype == jnp.float32
    logits = loops.instance_norm(np.asarray(x, np.float64), variables["params"]["norm"])
    expected = loops.local_importance_pool(x, loops.gate(logits))
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=4e-3)
