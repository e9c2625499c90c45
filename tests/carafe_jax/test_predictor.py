"""Sizes and options of the kernel predictor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, X, abstract_variables
from tests.kernels.errors import naming


def kernel_shapes(options, channels=CHANNELS):
    """The shapes of the kernels of both convolutions; both APIs have the same."""
    linen, layer = abstract_variables(channels, options)
    found = [
        {name: conv["kernel"].shape for name, conv in each["params"]["kernel_predictor"].items()}
        for each in (linen, layer)
    ]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("scale", "channels"),
    [({"up": 2}, 64), ({"down": 2}, 16), ({"up": 3, "down": 2}, 64), ({}, 16)],
    ids=str,
)
def test_automatic_compression_is_the_papers(scale, channels):
    assert kernel_shapes(scale)["channel_compressor"] == (1, 1, CHANNELS, channels)


@pytest.mark.parametrize("channels", [1, 8, np.int64(8)])
def test_given_compression_is_kept(channels):
    shapes = kernel_shapes({"up": 2, "compressed_channels": channels})
    assert shapes["channel_compressor"][3] == shapes["content_encoder"][2] == channels


def test_without_compression_the_encoder_reads_the_map():
    shapes = kernel_shapes({"up": 2, "compressed_channels": None})
    assert shapes == {"content_encoder": (3, 3, CHANNELS, 100)}


@pytest.mark.parametrize(
    ("options", "features", "cells"),
    [
        ({"up": 2}, 100, (5, 6)),
        ({"down": 2}, 25, (3, 3)),
        ({"kernel_size": 3, "up": 3, "down": 2, "groups": 2}, 162, (3, 3)),
    ],
    ids=str,
)
def test_encoder_predicts_every_kernel_of_a_cell(options, features, cells):
    layer = nnx.eval_shape(
        lambda: carafe_jax.nnx.CARAFE(CHANNELS, **options, rngs=nnx.Rngs(0)).kernel_predictor
    )
    logits = nnx.eval_shape(lambda layer: layer(jnp.asarray(X)), layer)
    assert logits.shape == (X.shape[0], *cells, features)


@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 3)])
def test_the_encoder_keeps_the_resolution_for_every_size_and_dilation(size, dilation):
    options = {"up": 2, "encoder_size": size, "encoder_dilation": dilation}
    layer = carafe_jax.nnx.KernelPredictor(CHANNELS, **options, rngs=nnx.Rngs(0))
    assert jax.eval_shape(layer, X).shape[1:3] == X.shape[1:3]


@pytest.mark.parametrize("name", ["compressed_channels", "encoder_size", "encoder_dilation"])
@pytest.mark.parametrize("value", [0, -1, 3.0, "3", True], ids=repr)
def test_options_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=naming(name, repr(value))):
        carafe_jax.nnx.KernelPredictor(CHANNELS, up=2, **{name: value}, rngs=nnx.Rngs(0))


def test_encoder_size_must_be_odd():
    with pytest.raises(ValueError, match=r"encoder_size.*odd.*2"):
        carafe_jax.nnx.KernelPredictor(CHANNELS, up=2, encoder_size=2, rngs=nnx.Rngs(0))


def initial_kernels(channels):
    layer = carafe_jax.nnx.KernelPredictor(channels, up=2, rngs=nnx.Rngs(0))
    return layer.channel_compressor.kernel[...], layer.content_encoder.kernel[...]


def test_compressor_starts_xavier_uniform():
    kernel, _ = initial_kernels(256)
    limit = np.sqrt(6 / (256 + 64))
    assert 0.99 * limit < abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.02)


def test_encoder_starts_normal_with_the_papers_deviation():
    _, kernel = initial_kernels(256)
    np.testing.assert_allclose(kernel.std(), 0.001, rtol=0.02)
    assert abs(kernel).mean() < 1e-3
    assert abs(kernel.mean()) < 1e-5
    assert abs(kernel).max() > 0.0035
