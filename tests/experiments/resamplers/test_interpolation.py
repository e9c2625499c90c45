import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.interpolation import bilinear, nearest
from tests.experiments.compilation import jit
from tests.experiments.resamplers import loops


def test_nearest_repeats():
    x = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    np.testing.assert_array_equal(nearest(x)[0, :, :, 0], expected)


def test_the_gradient_of_nearest_is_a_sum():
    weights = jnp.arange(16.0).reshape(1, 4, 4, 1)
    gradient = jax.grad(lambda x: (nearest(x) * weights).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[10, 18], [42, 50]])
    lowered = jax.jit(jax.grad(lambda x: nearest(x).sum())).lower(jnp.zeros((1, 2, 2, 1)))
    assert "scatter" not in lowered.as_text()


def test_bilinear_interpolates_between_pixel_centres():
    x = jnp.array([0.0, 1]).reshape(1, 1, 2, 1)
    np.testing.assert_allclose(bilinear(x)[0, :, :, 0], [[0, 0.25, 0.75, 1]] * 2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@settings(max_examples=5)
@given(shape=st.tuples(*[st.integers(1, 5)] * 4))
def test_interpolation_equals_the_loop(dtype, shape):
    x = jnp.asarray(np.random.default_rng(0).integers(-8, 8, shape), dtype)
    for found, expected in (
        (jit(nearest)(x), loops.nearest(x)),
        (jit(bilinear)(x), loops.bilinear(x)),
    ):
        assert found.dtype == dtype
        np.testing.assert_array_equal(np.asarray(found, np.float64), expected)  # sixteenths


@pytest.mark.parametrize("interpolate", [nearest, bilinear])
def test_gradients_equal_finite_differences(interpolate):
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
    loops.check_gradients(interpolate, getattr(loops, interpolate.__name__), x)
