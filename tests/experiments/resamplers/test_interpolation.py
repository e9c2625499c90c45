import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.interpolation import bilinear, nearest, resize
from tests.compilation import jit
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


@pytest.mark.parametrize("align_corners", [False, True])
@settings(max_examples=15)
@given(shape=st.tuples(*[st.integers(1, 9)] * 4), size=st.tuples(*[st.integers(1, 13)] * 2))
def test_resizing_equals_the_loop(align_corners, shape, size):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = jit(lambda x: resize(x, size, align_corners))(x)
    np.testing.assert_allclose(found, loops.resize(x, size, align_corners), atol=1e-5)


def test_resizing_by_hand():
    x = jnp.arange(5.0).reshape(1, 1, 5, 1)
    for size, align_corners, expected in (
        (2, False, [0.75, 3.25]),  # with antialiasing these would be means of more pixels
        (2, True, [0, 4]),
        (1, False, [2]),
        (1, True, [0]),
        (9, True, np.arange(9) / 2),
    ):
        y = resize(x, (3, size), align_corners)
        np.testing.assert_allclose(y[0, :, :, 0], [expected] * 3, atol=1e-6)


def test_resizing_to_the_double_is_bilinear_upsampling():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)
    np.testing.assert_array_equal(resize(x, (6, 8)), bilinear(x))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(5, 3), (2, 7), (1, 1)])
def test_gradients_of_resizing_are_products(align_corners, size):
    x = np.random.default_rng(0).normal(size=(1, 4, 3, 2)).astype(np.float32)
    loops.check_gradients(
        lambda x: resize(x, size, align_corners), lambda x: loops.resize(x, size, align_corners), x
    )
    gradient = jax.jit(jax.grad(lambda x: resize(x, size, align_corners).sum()))
    assert "scatter" not in gradient.lower(x).as_text()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_resizing_keeps_the_dtype(align_corners, dtype):
    x = jax.ShapeDtypeStruct((1, 4, 3, 2), dtype)
    with jax.numpy_dtype_promotion("strict"):
        y = jax.eval_shape(lambda x: resize(x, (7, 2), align_corners), x)
    assert (y.shape, y.dtype) == ((1, 7, 2, 2), dtype)
