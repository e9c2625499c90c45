import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.resamplers.pointwise import convolve
from tests.experiments.variables import random_variables


def with_gradients(layer, x):
    """Result and gradients of a layer whose variables do not depend on how it convolves."""
    variables = random_variables(layer, x)

    @jax.jit
    def run(variables, x):
        y, pull = jax.vjp(layer.apply, variables, x)
        return y, pull(jnp.cos(y))

    return jax.tree.leaves_with_path(run(variables, x))


@pytest.mark.parametrize("strides", [1, 2, (2, 3)])
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "SAME"},
        {"padding": "VALID"},
        {"padding": 0},
        {"padding": 0, "use_bias": False, "kernel_dilation": 2},
        {"padding": 0, "precision": "highest"},
        # These are no matrix products.
        {"padding": 1},
        {"padding": 0, "feature_group_count": 2},
        {"padding": 0, "input_dilation": 2},
    ],
    ids=str,
)
def test_it_is_the_1x1_convolution(strides, options):
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 6)).astype(np.float32)
    expected = with_gradients(nn.Conv(4, (1, 1), strides, **options), x)
    got = with_gradients(nn.Conv(4, (1, 1), strides, conv_general_dilated=convolve, **options), x)
    for (path, value), (expected_path, expected_value) in zip(got, expected, strict=True):
        assert path == expected_path
        np.testing.assert_allclose(value, expected_value, atol=1e-5, err_msg=str(path))


def test_other_kernels_are_convolved_as_before():
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 6)).astype(np.float32)
    for kernel_size in ((3, 3), (1, 3), (3, 1)):
        expected = with_gradients(nn.Conv(4, kernel_size, 2, padding=1), x)
        layer = nn.Conv(4, kernel_size, 2, padding=1, conv_general_dilated=convolve)
        for (path, value), (_, same) in zip(with_gradients(layer, x), expected, strict=True):
            np.testing.assert_array_equal(value, same, err_msg=str(path))


def test_bfloat16_rounds_as_the_convolution_does():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8, 64)), jnp.bfloat16)
    expected = with_gradients(nn.Conv(4, (1, 1), dtype=x.dtype), x)
    layer = nn.Conv(4, (1, 1), dtype=x.dtype, conv_general_dilated=convolve)
    got = with_gradients(layer, x)
    assert got[0][1].dtype == jnp.bfloat16
    for (path, value), (_, same) in zip(got, expected, strict=True):
        assert value.dtype == same.dtype
        value, same = np.float32(value), np.float32(same)
        np.testing.assert_allclose(value, same, atol=0.02 * abs(same).max(), err_msg=str(path))
