from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers.downsamplers import Downsample, pool
from experiments.resamplers.methods import Downsampler
from tests.compilation import jit
from tests.experiments.resamplers.single_pixel import X, apply_with_identity_convolution

METHODS = get_args(Downsampler)
POOLS = [method for method in METHODS if method != "strided"]


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Pool(nn.Module):
    method: Downsampler
    dtype: jax.typing.DTypeLike | None = None

    @nn.compact
    def __call__(self, x):
        return pool(x, self.method, name="resample", dtype=self.dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5), (1, 1)])
def test_downsamplers_halve_rounding_up(method, height, width):
    x = jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32)
    y, _ = jax.eval_shape(Downsample(method, 5).init_with_output, jax.random.key(0), x)
    assert y.shape == (2, -(-height // 2), -(-width // 2), 5)


def test_strided_takes_every_second_pixel():
    y = apply_with_identity_convolution(Downsample("strided", 1), X)
    np.testing.assert_array_equal(y, X[0, ::2, ::2, 0])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("max_pool", [[7, 9, 11], [19, 21, 23]]),
        ("avg_pool", [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]),
        # Deviations of -3.5, -2.5, 2.5 and 3.5 have equal weights on both sides of the mean.
        ("dpp", [[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]),
        # Means of 3x3, cut at the upper and the left border.
        ("lip", [[3.5, 5, 7], [12.5, 14, 16]]),
    ],
)
def test_pools_before_a_convolution(method, expected):
    y = apply_with_identity_convolution(Downsample(method, 1), X)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_carafe_starts_near_a_box_filter():
    x = random_map(1, 12, 12, 1)
    y = apply_with_identity_convolution(Downsample("carafe", 1), x)
    means = [[x[0, i - 2 : i + 3, j - 2 : j + 3, 0].mean() for j in (4, 6)] for i in (4, 6)]
    np.testing.assert_allclose(y[2:4, 2:4], means, atol=2e-2)


@pytest.mark.parametrize("method", ["dpp", "lip", "carafe"])
def test_parameters_are_stored_under_the_name(method):
    variables = jax.eval_shape(Downsample(method, 1).init, jax.random.key(0), X)
    assert set(variables["params"]) == {"resample", "Conv_0"}


@pytest.mark.parametrize("method", POOLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite(method, dtype):
    shape = (2, 5, 4, 3)
    layer = Pool(method, dtype)
    variables = jit(layer.lazy_init)(jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))

    def loss(variables, x):
        y = layer.apply(variables, x)
        assert y.dtype == dtype
        return jnp.square(y.astype(jnp.float32) - 1).sum()

    gradient = jit(jax.grad(loss, (0, 1)))
    for x in (np.zeros(shape), np.full(shape, 3.0), random_map(*shape)):
        gradients, x_gradient = gradient(variables, x.astype(dtype))
        assert x_gradient.dtype == dtype
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))
        for leaf in jax.tree.leaves((gradients, x_gradient)):
            assert np.isfinite(np.asarray(leaf, np.float32)).all()
        assert np.abs(np.asarray(x_gradient, np.float32)).max() > 0


@pytest.mark.parametrize("method", POOLS)
def test_bfloat16_is_float32_rounded(method):
    x = random_map(2, 7, 6, 3).astype(jnp.bfloat16)
    variables = jit(Pool(method).init)(jax.random.key(0), x)
    y = jit(Pool(method, jnp.bfloat16).apply)(variables, x)
    expected = jit(Pool(method).apply)(variables, x.astype(np.float32))
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=5e-3, atol=5e-3)


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"method.*carafe.*'bicubic'"):
        Downsample("bicubic", 1).init(jax.random.key(0), X)


def test_the_strided_convolution_has_no_pool():
    with pytest.raises(ValueError, match=r"method.*'strided'"):
        Pool("strided").init(jax.random.key(0), X)
