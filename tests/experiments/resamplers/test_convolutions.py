import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.convolutions import Deconvolution, PixelShuffle, depth_to_space
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import random_variables


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # Pixel i = 1 reaches the targets from 2i - (k - 1) // 2 to 2i + k // 2.
        (2, [0, 0, 1, 2, 0, 0]),
        (3, [0, 1, 2, 3, 0, 0]),
        (4, [0, 1, 2, 3, 4, 0]),
    ],
)
def test_a_pixel_reaches_the_right_targets(size, expected):
    x = jnp.array([[0], [1.0], [0]]).reshape(1, 1, 3, 1)
    kernel = np.zeros((size, size, 1, 1), np.float32)
    kernel[:, :, 0, 0] = np.arange(size, 0, -1)
    params = {"ConvTranspose_0": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    y = jit(Deconvolution(1, size).apply)({"params": params}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], [expected, expected])


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_deconvolution_equals_the_loop(size):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    layer = Deconvolution(5, size)
    variables = random_variables(layer, x)
    params = variables["params"]["ConvTranspose_0"]
    expected = loops.deconvolve(x, params["kernel"]) + params["bias"]
    np.testing.assert_allclose(jit(layer.apply)(variables, x), expected, atol=2e-5)


class FlaxDeconvolution(nn.Module):
    """Flax's deconvolution with a kernel of the size of its stride."""

    features: int
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x):
        size = (2, 2)
        convolution = nn.ConvTranspose(
            self.features, size, strides=size, padding=((1, 1), (1, 1)), dtype=self.dtype
        )
        return convolution(x)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("input_dtype", [jnp.float32, jnp.bfloat16])
def test_a_kernel_of_the_size_of_the_stride_equals_flax(input_dtype, dtype):
    ours, flax = Deconvolution(5, 2, dtype), FlaxDeconvolution(5, dtype)
    key = jax.random.key(3)
    # Small integers, whose products and sums are exact in any order.
    x = jax.random.randint(key, (2, 3, 4, 6), -8, 8).astype(input_dtype)
    variables, expected_variables = jit(ours.init)(key, x), jit(flax.init)(key, x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)
    whole = jax.tree.map(lambda leaf: jnp.round(4 * (leaf + 1)), variables)
    y, expected = jit(ours.apply)(whole, x), jit(flax.apply)(whole, x)
    assert y.dtype == expected.dtype
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("wrapped", [lambda apply: apply, jax.checkpoint], ids=["", "checkpoint"])
def test_a_kernel_of_the_size_of_the_stride_has_the_gradients_of_flax(wrapped):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 4, 32)).astype(np.float32)
    ours, flax = Deconvolution(24, 2), FlaxDeconvolution(24)
    variables = random_variables(ours, x)
    direction = rng.normal(size=(2, 10, 8, 24)).astype(np.float32)

    def gradients(layer):
        def loss(variables, x):
            return (direction * wrapped(layer.apply)(variables, x)).sum()

        return jit(jax.grad(loss, (0, 1)))(variables, x)

    jax.tree.map(
        lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5),
        gradients(ours),
        gradients(flax),
    )


def test_a_kernel_of_one_pixel_has_targets_without_a_source():
    with pytest.raises(ValueError, match=r"kernel_size.* 1\b"):
        Deconvolution(1, 1).init(jax.random.key(0), jnp.ones((1, 1, 1, 1)))


def test_depth_to_space_order():
    x = jnp.arange(8.0).reshape(1, 1, 1, 8)  # two output channels
    np.testing.assert_array_equal(depth_to_space(x, 2)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])


@settings(max_examples=5)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_each_pixel_keeps_its_channels_in_its_block(height, width, factor):
    x = np.arange(height * width * 2 * factor**2).reshape(1, height, width, -1)
    y = np.asarray(depth_to_space(jnp.asarray(x), factor))
    for i in range(height * factor):
        for j in range(width * factor):
            first = ((i % factor) * factor + j % factor) * 2
            expected = x[0, i // factor, j // factor, first : first + 2]
            np.testing.assert_array_equal(y[0, i, j], expected)


def test_pixel_shuffle_equals_the_loop():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    variables = random_variables(PixelShuffle(2), x)
    params = variables["params"]["Conv_0"]
    blocks = loops.convolve(x, params["kernel"]) + params["bias"]
    y = jit(PixelShuffle(2).apply)(variables, x)
    assert y.shape == (2, 6, 8, 2)
    np.testing.assert_allclose(y[:, 1::2, ::2], blocks[..., 4:6], atol=2e-5)
    np.testing.assert_allclose(y[:, ::2, 1::2], blocks[..., 2:4], atol=2e-5)
