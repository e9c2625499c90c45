from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers import Downsample, Downsampler, Upsample, Upsampler, depth_to_space

X = np.arange(24.0, dtype=np.float32).reshape(1, 4, 6, 1)


def apply_with_identity_convolution(module, x):
    """Sets the 3x3 convolution to pass its input, so that only the resampling shows."""
    variables = module.init(jax.random.key(0), x)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 1
    variables = {
        "params": {**variables["params"], "Conv_0": {"kernel": kernel, "bias": np.zeros(1)}}
    }
    return np.asarray(module.apply(variables, x))[0, :, :, 0]


@pytest.mark.parametrize("method", get_args(Downsampler))
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 5), (1, 1)])
def test_downsamplers_halve_rounding_up(method, height, width):
    x = jnp.ones((2, height, width, 3))
    y, _ = Downsample(method, 5).init_with_output(jax.random.key(0), x)
    assert y.shape == (2, -(-height // 2), -(-width // 2), 5)


@pytest.mark.parametrize("method", get_args(Upsampler))
@pytest.mark.parametrize(("height", "width"), [(4, 3), (1, 1)])
def test_upsamplers_double(method, height, width):
    x = jnp.ones((2, height, width, 3))
    y, _ = Upsample(method, 5).init_with_output(jax.random.key(0), x)
    assert y.shape == (2, 2 * height, 2 * width, 5)


def test_strided_takes_every_second_pixel():
    y = apply_with_identity_convolution(Downsample("strided", 1), X)
    np.testing.assert_array_equal(y, X[0, ::2, ::2, 0])


def test_max_pool_takes_the_maximum_of_3x3_about_every_second_pixel():
    y = apply_with_identity_convolution(Downsample("max_pool", 1), X)
    np.testing.assert_array_equal(y, [[7, 9, 11], [19, 21, 23]])


def test_avg_pool_takes_the_mean_of_2x2_and_skips_what_is_outside():
    y = apply_with_identity_convolution(Downsample("avg_pool", 1), X[:, :3])
    np.testing.assert_allclose(y, [[3.5, 5.5, 7.5], [12.5, 14.5, 16.5]])


def test_nearest_repeats():
    y = apply_with_identity_convolution(Upsample("nearest", 1), X)
    np.testing.assert_array_equal(y, X[0, :, :, 0].repeat(2, 0).repeat(2, 1))


def test_bilinear_interpolates_between_pixel_centres():
    y = apply_with_identity_convolution(Upsample("bilinear", 1), X[:, :1, :2])
    np.testing.assert_allclose(y, [[0, 0.25, 0.75, 1]] * 2)


def test_carafe_starts_near_a_box_filter():
    x = np.asarray(jax.random.normal(jax.random.key(1), (1, 12, 12, 1)))
    y = apply_with_identity_convolution(Downsample("carafe", 1), x)
    means = [[x[0, i - 2 : i + 3, j - 2 : j + 3, 0].mean() for j in (4, 6)] for i in (4, 6)]
    np.testing.assert_allclose(y[2:4, 2:4], means, atol=2e-2)
    y = apply_with_identity_convolution(Upsample("carafe", 1), x)
    np.testing.assert_allclose(y[8:13:4, 8:13:4], means, atol=2e-2)


def test_depth_to_space_order():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # two output channels
    np.testing.assert_array_equal(depth_to_space(x, 2)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


@pytest.mark.parametrize("module", [Downsample, Upsample])
def test_an_unknown_method_is_named(module):
    with pytest.raises(ValueError, match=r"method must be one of .*carafe.*got 'bicubic'"):
        module("bicubic", 1).init(jax.random.key(0), X)
