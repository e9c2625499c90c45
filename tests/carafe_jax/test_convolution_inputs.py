"""What `convolve` takes besides JAX arrays, as :func:`jax.lax.conv_general_dilated` does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from carafe_jax.convolution import convolve
from tests.array_likes import ARRAY_LIKES
from tests.carafe_jax.convolutions import CHANNELS_LAST
from tests.carafe_jax.twins import random_map

# A matrix product, a kernel whose gradient is one, and a convolution of XLA.
SIZES = {"1x1": (1, 1, 4, 6), "3x3": (3, 3, 64, 96), "few channels": (3, 3, 4, 6)}


@pytest.mark.parametrize("of", ARRAY_LIKES.values(), ids=ARRAY_LIKES)
@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_it_takes_what_converts_to_an_array(shape, of):
    x, kernel = random_map(1, 4, 5, shape[2]), random_map(*shape, seed=1)
    y = convolve(of(x), of(kernel), (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)
    expected = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)
    assert isinstance(y, jax.Array)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_it_promotes_no_dtype(shape, dtype):
    x = jax.ShapeDtypeStruct((1, 4, 5, shape[2]), dtype)
    kernel = jax.ShapeDtypeStruct(shape, dtype)

    def loss(x, kernel):
        y = convolve(x, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST)
        return y.astype(jnp.float32).sum()

    with jax.numpy_dtype_promotion("strict"):
        gradients = jax.eval_shape(jax.grad(loss, (0, 1)), x, kernel)
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("shape", SIZES.values(), ids=SIZES)
def test_integers_may_be_of_numpy(shape):
    x = jax.ShapeDtypeStruct((1, 4, 5, shape[2]), jnp.float32)
    kernel = jax.ShapeDtypeStruct(shape, jnp.float32)
    one, two = np.int64(1), np.int64(2)
    strides, padding = (two, one), ((one, one),) * 2

    def gradients(x, kernel):
        def loss(x, kernel):
            return convolve(x, kernel, strides, padding, dimension_numbers=CHANNELS_LAST).sum()

        return jax.grad(loss, (0, 1))(x, kernel)

    shapes = jax.eval_shape(gradients, x, kernel)
    assert [gradient.shape for gradient in shapes] == [x.shape, shape]
