import jax
import jax.numpy as jnp
import numpy as np

from experiments.resamplers.spatial_attention import SpatialAttentionUpsample
from tests.compilation import jit
from tests.experiments.resamplers import loops


def test_it_starts_as_half_of_nearest():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 3)).astype(np.float32)
    y, variables = jit(SpatialAttentionUpsample().init_with_output)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "attention": {"kernel": (3, 3, 3, 1), "bias": (1,)}
    }
    np.testing.assert_allclose(y, loops.nearest(x) / 2, rtol=1e-6)


def test_attention_scales_all_channels_of_a_pixel():
    # The logit is the first channel; ln 3 gives an attention of 3/4, -ln 3 of 1/4.
    kernel = np.zeros((3, 3, 2, 1), np.float32)
    kernel[1, 1, 0] = 1
    params = {"attention": {"kernel": kernel, "bias": np.zeros(1, np.float32)}}
    x = jnp.log(3.0) * jnp.array([[1.0, 4], [-1, 4]]).reshape(1, 1, 2, 2)
    y = jit(SpatialAttentionUpsample().apply)({"params": params}, x) / jnp.log(3.0)
    pixels = np.array([[0.75, 3], [0.75, 3], [-0.25, 1], [-0.25, 1]])
    np.testing.assert_allclose(y[0], [pixels, pixels], rtol=1e-6)


def test_the_layer_equals_the_loop():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 1)).astype(np.float32)
    params = {"attention": {"kernel": kernel, "bias": np.full(1, 0.5, np.float32)}}
    doubled = loops.nearest(x)
    attention = 1 / (1 + np.exp(-loops.convolve(doubled, kernel) - 0.5))
    y = jit(SpatialAttentionUpsample().apply)({"params": params}, x)
    np.testing.assert_allclose(y, attention * doubled, atol=1e-5)
