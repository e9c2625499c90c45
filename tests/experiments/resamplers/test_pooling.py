import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.pooling import (
    adaptive_avg_pool,
    avg_pool,
    max_pool,
    window_mean,
    window_sum,
)
from tests.compilation import jit
from tests.experiments.resamplers import loops

X = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6, 1)


def test_max_pool_is_the_maximum_of_3x3_around_every_second_pixel():
    np.testing.assert_array_equal(max_pool(X)[0, :, :, 0], [[7, 9, 11], [19, 21, 23]])


def test_avg_pool_is_the_mean_of_2x2_inside_the_map():
    y = avg_pool(X[:, :3, :5])[0, :, :, 0]
    np.testing.assert_array_equal(y, [[3.5, 5.5, 7], [12.5, 14.5, 16]])


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (1, 2), (1, 1)])
def test_pools_equal_the_loops(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32) - 3
    expected = loops.pooled(x, 3, 1, lambda pixels, *_: pixels.max(axis=0))
    largest, total, *means = jit(
        lambda x: (max_pool(x), window_sum(x), window_mean(x), avg_pool(x))
    )(x)
    np.testing.assert_array_equal(largest, expected.astype(np.float32))
    expected = loops.pooled(x, 2, 0, lambda pixels, *_: pixels.sum(axis=0))
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    expected = loops.pooled(x, 2, 0, lambda pixels, *_: pixels.mean(axis=0))
    for mean in means:
        np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_avg_pool_sums_in_float32():
    # In bfloat16 256 + 1 is 256, so sums in bfloat16 would be at most 514 instead of 516.
    x = jnp.asarray([[256, 1], [258, 1]], jnp.bfloat16).reshape(1, 2, 2, 1)
    y = avg_pool(x)
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == 129


@settings(max_examples=20)
@given(shape=st.tuples(*[st.integers(1, 14)] * 2), size=st.tuples(*[st.integers(1, 7)] * 2))
def test_adaptive_pooling_equals_the_loop(shape, size):
    x = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    found = jit(lambda x: adaptive_avg_pool(x, size))(x)
    np.testing.assert_allclose(found, loops.adaptive_avg_pool(x, size), atol=1e-6)


def test_bins_of_adaptive_pooling_overlap():
    x = jnp.arange(10.0).reshape(1, 10, 1, 1)
    # Pixels 0..1, 1..3, 3..4, 5..6, 6..8 and 8..9.
    np.testing.assert_allclose(
        adaptive_avg_pool(x, (6, 1)).ravel(), [0.5, 2, 3.5, 5.5, 7, 8.5], rtol=1e-6
    )


@pytest.mark.parametrize("size", [(3, 2), (6, 6)])
def test_gradients_of_adaptive_pooling_are_products(size):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 2)).astype(np.float32)
    loops.check_gradients(
        lambda x: adaptive_avg_pool(x, size), lambda x: loops.adaptive_avg_pool(x, size), x
    )
    gradient = jax.jit(jax.grad(lambda x: adaptive_avg_pool(x, size).sum()))
    assert "scatter" not in gradient.lower(x).as_text()


def test_adaptive_pooling_sums_in_float32():
    x = jnp.asarray([[256, 1], [258, 1]], jnp.bfloat16).reshape(1, 2, 2, 1)
    with jax.numpy_dtype_promotion("strict"):
        y = adaptive_avg_pool(x, (1, 1))
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == 129
