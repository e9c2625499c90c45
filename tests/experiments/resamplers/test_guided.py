import jax
import jax.numpy as jnp
import numpy as np

from experiments.resamplers.guided import GuidedUpsample
from experiments.resamplers.interpolation import bilinear
from tests.compilation import jit
from tests.experiments.resamplers import loops


def test_it_starts_as_bilinear():
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3)).astype(np.float32)
    y, variables = jit(GuidedUpsample().init_with_output)(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "offsets": {"kernel": (3, 3, 3, 8), "bias": (8,)}
    }
    np.testing.assert_allclose(y, bilinear(x), atol=1e-6)


def test_offsets_are_rows_and_columns_of_four_targets():
    # The bias shifts the column of target (1, 0) by half a pixel, the row of (0, 1) by a quarter.
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 1)).astype(np.float32)
    bias = np.zeros(8, np.float32)
    bias[2 * 2 + 1] = 0.5
    bias[1 * 2 + 0] = 0.25
    params = {"offsets": {"kernel": np.zeros((3, 3, 1, 8), np.float32), "bias": bias}}
    y = jit(GuidedUpsample().apply)({"params": params}, x)
    positions = loops.bilinear_positions(x).copy()
    positions[:, 1::2, ::2, 1] += 0.5
    positions[:, ::2, 1::2, 0] += 0.25
    np.testing.assert_allclose(y, loops.sample(x, positions), atol=1e-6)


def test_offsets_come_from_the_map():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 3, 4, 2)), rng.normal(size=(3, 3, 2, 8))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)
    params = {"offsets": {"kernel": kernel, "bias": np.zeros(8, np.float32)}}
    y = jit(GuidedUpsample().apply)({"params": params}, x)
    blocks = loops.convolve(x, kernel).reshape(1, 3, 4, 2, 2, 2)  # [B, H, W, sy, sx, 2]
    offsets = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(1, 6, 8, 2)
    np.testing.assert_allclose(y, loops.sample(x, loops.bilinear_positions(x) + offsets), atol=1e-4)
