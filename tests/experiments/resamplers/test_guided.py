import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.guided import GuidedUpsample, sample
from experiments.resamplers.interpolation import bilinear
from tests.compilation import jit
from tests.experiments.resamplers import loops

ROW = jnp.array([0.0, 4, 8, 16]).reshape(1, 1, 4, 1)


def at(column):
    return sample(ROW, jnp.array([0.0, column]).reshape(1, 1, 1, 2))[0, 0, 0, 0]


@pytest.mark.parametrize(
    ("column", "value"),
    [(0, 0), (2, 8), (2.25, 10), (3, 16), (3.5, 16), (1e9, 16), (-0.5, 0), (-1e30, 0)],
)
def test_a_sample_is_a_mean_of_its_neighbours(column, value):
    assert jit(at)(column) == value


@settings(max_examples=8)
@given(
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    targets=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 99),
)
def test_samples_equal_the_loop(height, width, targets, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    positions = rng.uniform(-2, 7, size=(2, *targets, 2)).astype(np.float32)
    np.testing.assert_allclose(jit(sample)(x, positions), loops.sample(x, positions), atol=1e-5)


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 4, 3, 2)).astype(np.float32)
    positions = rng.uniform(-1, 4, size=(1, 5, 4, 2)).astype(np.float32)
    loops.check_gradients(sample, loops.sample, x, positions)


def test_there_is_no_gradient_outside_the_map():
    gradient = jit(jax.grad(at))
    assert gradient(0.25) == 4
    assert gradient(-0.25) == gradient(3.25) == gradient(1e9) == 0


def test_bfloat16_gradients_are_summed_in_float32():
    x = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    gradient = jax.grad(lambda x: sample(x, jnp.zeros((1, 16, 16, 2))).sum())
    assert jax.eval_shape(gradient, x).dtype == jnp.bfloat16
    # A CPU sums bfloat16 in float32 anyway, so the test examines the traced program.
    sums = re.findall(r":(\w+)\[\S*\] = scatter-add", str(jax.make_jaxpr(gradient)(x)))
    assert set(sums) == {"f32"}


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
