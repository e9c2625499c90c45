from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers import Upsample, Upsampler, depth_to_space
from tests.experiments.resamplers.single_pixel import X, apply_with_identity_convolution


@pytest.mark.parametrize("method", get_args(Upsampler))
@pytest.mark.parametrize(("height", "width"), [(4, 3), (1, 1)])
def test_upsamplers_double(method, height, width):
    x = jnp.ones((2, height, width, 3))
    y, _ = Upsample(method, 5).init_with_output(jax.random.key(0), x)
    assert y.shape == (2, 2 * height, 2 * width, 5)


def test_nearest_repeats():
    y = apply_with_identity_convolution(Upsample("nearest", 1), X)
    np.testing.assert_array_equal(y, X[0, :, :, 0].repeat(2, 0).repeat(2, 1))


def test_bilinear_interpolates_between_pixel_centres():
    y = apply_with_identity_convolution(Upsample("bilinear", 1), X[:, :1, :2])
    np.testing.assert_allclose(y, [[0, 0.25, 0.75, 1]] * 2)


def test_carafe_starts_near_a_box_filter():
    x = np.asarray(jax.random.normal(jax.random.key(1), (1, 12, 12, 1)))
    y = apply_with_identity_convolution(Upsample("carafe", 1), x)
    means = [[x[0, i - 2 : i + 3, j - 2 : j + 3, 0].mean() for j in (4, 6)] for i in (4, 6)]
    np.testing.assert_allclose(y[8:13:4, 8:13:4], means, atol=2e-2)


def test_depth_to_space_order():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # two output channels
    np.testing.assert_array_equal(depth_to_space(x, 2)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=r"method must be one of .*carafe.*got 'bicubic'"):
        Upsample("bicubic", 1).init(jax.random.key(0), X)
