import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.convolutions import Deconvolution, PixelShuffle, depth_to_space
from tests.experiments.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # One pixel reaches the targets from 2i - (k - 1) // 2 to 2i + k // 2: here i is 1.
        (2, [0, 0, 1, 2, 0, 0]),
        (3, [0, 1, 2, 3, 0, 0]),
        (4, [0, 1, 2, 3, 4, 0]),
    ],
)
def test_where_a_pixel_goes(size, expected):
    x = jnp.array([[0], [1.0], [0]]).reshape(1, 1, 3, 1)
    kernel = np.zeros((size, size, 1, 1), np.float32)
    kernel[:, :, 0, 0] = np.arange(size, 0, -1)
    params = {"ConvTranspose_0": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    y = jit(Deconvolution(1, size).apply)({"params": params}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [expected, expected])


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_deconvolution_is_the_loop(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    layer = Deconvolution(5, size)
    variables = random_variables(layer, x)
    params = variables["params"]["ConvTranspose_0"]
    expected = loops.deconvolve(x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(jit(layer.apply)(variables, x), expected, atol=2e-5)


def test_a_kernel_of_one_pixel_has_targets_without_a_source():
    with pytest.raises(ValueError, match=r"kernel_size.* 1\b"):
        Deconvolution(1, 1).init(jax.random.key(0), jnp.ones((1, 1, 1, 1)))


def test_depth_to_space_order():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # two output channels
    np.testing.assert_array_equal(depth_to_space(x, 2)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


@settings(max_examples=5)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_each_pixel_keeps_its_channels_in_its_cell(height, width, factor):
    x = np.arange(height * width * 2 * factor**2).reshape(1, height, width, -1)
    y = np.asarray(depth_to_space(jnp.asarray(x), factor))
    for i in range(height * factor):
        for j in range(width * factor):
            first = ((i % factor) * factor + j % factor) * 2
            expected = x[0, i // factor, j // factor, first : first + 2]
            np.testing.assert_array_equal(y[0, i, j], expected)


def test_pixel_shuffle_is_the_loop():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    variables = random_variables(PixelShuffle(2), x)
    params = variables["params"]["Conv_0"]
    cells = loops.convolve(x, params["kernel"]) + params["bias"]
    y = jit(PixelShuffle(2).apply)(variables, x)
    assert y.shape == (2, 6, 8, 2)
    np.testing.assert_allclose(y[:, 1::2, ::2], cells[..., 4:6], atol=2e-5)
    np.testing.assert_allclose(y[:, ::2, 1::2], cells[..., 2:4], atol=2e-5)
