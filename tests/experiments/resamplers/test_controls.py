import jax
import jax.numpy as jnp
import numpy as np
import pytest

from carafe_jax.linen import CARAFE
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.controls import EncodedBoxUpsample, StaticKernelUpsample
from tests.compilation import jit
from tests.experiments.variables import random_variables
from tests.kernels import oracle

CONFIG = CarafeConfig(compressed_channels=3, encoder_size=3, kernel_size=3)
LAYERS = {"static": StaticKernelUpsample(CONFIG), "encoded": EncodedBoxUpsample(CONFIG)}


def random_map(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
def test_it_starts_as_a_box_filter(name):
    x = random_map(2, 4, 5, 12)
    y, _ = jit(LAYERS[name].init_with_output)(jax.random.key(0), x)
    weights = np.full((2, 8, 10, 9), 1 / 9)
    np.testing.assert_allclose(y, oracle.reassemble(x, weights, 3, up=2), atol=4e-2)


@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid"])
def test_static_kernels_are_the_same_at_every_pixel(normalizer):
    config = CarafeConfig(kernel_size=3, normalizer=normalizer)
    x = random_map(2, 3, 4, 2)
    logits = np.random.default_rng(1).normal(size=(2, 2, 9))
    weights = 1 / (1 + np.exp(-logits))
    if normalizer == "softmax":
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = jit(StaticKernelUpsample(config).apply)(
        {"params": {"logits": logits.astype(np.float32).ravel()}}, x
    )
    everywhere = np.tile(weights, (2, 3, 4, 1))  # [B, 2 * H, 2 * W, k**2]
    np.testing.assert_allclose(y, oracle.reassemble(x, everywhere, 3, up=2), atol=1e-5)


def test_the_predicted_channels_are_added_to_the_box_filter():
    channels = 12  # more than the nine predicted ones
    x = random_map(2, 3, 4, channels)
    layer = LAYERS["encoded"]
    variables = random_variables(layer, x)
    y = jit(layer.apply)(variables, x)
    box = oracle.reassemble(x, np.full((2, 6, 8, 9), 1 / 9), 3, up=2)
    # CARAFE++ with the same parameters has these values as its logits.
    kernels = jit(
        lambda v, x: CARAFE(up=2, kernel_size=3, compressed_channels=3).apply(
            v, x, method="reassembly_kernels"
        )
    )(variables, x)
    added = y - box
    np.testing.assert_allclose(added[..., :3], added[..., 9:], atol=1e-5)
    np.testing.assert_allclose(jax.nn.softmax(added[..., :9]), kernels, atol=1e-5)


def test_it_has_the_parameters_of_carafe():
    x = jnp.ones((1, 4, 4, 12))
    carafe = CARAFE(up=2, kernel_size=3, compressed_channels=3)
    shapes = [
        jax.eval_shape(layer.init, jax.random.key(0), x) for layer in (carafe, LAYERS["encoded"])
    ]
    assert shapes[0] == shapes[1]
