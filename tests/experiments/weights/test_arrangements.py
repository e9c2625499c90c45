"""Arrangements compute the same layers in the layouts of PyTorch and of Flax."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.convert import params_from_mmcv
from experiments.weights.arrangements import (
    CONVOLUTION,
    DENSE,
    VECTOR,
    Deconvolution,
    DenseOnRegions,
    Logits,
)

RNG = np.random.default_rng(0)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


ARRAYS = [
    (VECTOR, random(3)),
    (CONVOLUTION, random(5, 4, 3, 1)),
    (DENSE, random(5, 4)),
    (Deconvolution(), random(3, 4, 2, 3)),
    (DenseOnRegions(7), random(5, 3 * 49)),
    (Logits(2), random(100, 8, 3, 3)),
    (Logits(2), random(200)),
]


@pytest.mark.parametrize(("arrangement", "array"), ARRAYS, ids=str)
def test_a_conversion_and_its_inverse_give_the_same_bits(arrangement, array):
    converted = arrangement.to_model(array)
    np.testing.assert_array_equal(arrangement.to_file(converted), array)


def test_a_convolution_sums_over_the_same_values():
    kernel, x = random(5, 4, 3, 1), random(4, 6, 7)  # [O, I, H, W], [I, H, W]
    y = nn.Conv(5, (3, 1), padding="VALID", use_bias=False).apply(
        {"params": {"kernel": CONVOLUTION.to_model(kernel)}}, jnp.asarray(x.transpose(1, 2, 0))
    )
    expected = sum(
        np.einsum("oi,ihw->hwo", kernel[:, :, row, 0], x[:, row : row + 4]) for row in range(3)
    )
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_deconvolution_scatters_the_same_values():
    kernel, x = random(3, 4, 2, 2), random(3, 5, 6)  # [I, O, H, W], [I, H, W]
    y = nn.ConvTranspose(4, (2, 2), strides=(2, 2), padding="VALID", use_bias=False).apply(
        {"params": {"kernel": Deconvolution().to_model(kernel)}},
        jnp.asarray(x.transpose(1, 2, 0))[None],
    )
    expected = np.zeros((10, 12, 4), np.float32)
    for row in range(2):
        for column in range(2):
            expected[row::2, column::2] = np.einsum("io,ihw->hwo", kernel[:, :, row, column], x)
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-5)


def test_a_dense_layer_reads_the_same_values_of_a_region():
    kernel, region = random(5, 3 * 49), random(3, 7, 7)  # [out, C * H * W], [C, H, W]
    flat = region.transpose(1, 2, 0).reshape(-1)
    expected = kernel @ region.reshape(-1)
    np.testing.assert_allclose(
        flat @ DenseOnRegions(7).to_model(kernel), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_logits_are_those_of_the_converter_for_a_layer(groups):
    state = {
        "channel_compressor.weight": random(8, 4, 1, 1),
        "channel_compressor.bias": random(8),
        "content_encoder.weight": random(100 * groups, 8, 3, 3),
        "content_encoder.bias": random(100 * groups),
    }
    params = params_from_mmcv(state, groups=groups)["kernel_predictor"]["content_encoder"]
    for ours, theirs in (("kernel", "weight"), ("bias", "bias")):
        found = Logits(2).to_model(state[f"content_encoder.{theirs}"])
        np.testing.assert_array_equal(found, params[ours])
