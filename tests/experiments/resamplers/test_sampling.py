import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.resamplers.interpolation import bilinear
from experiments.resamplers.sampling import bilinear_positions, sample
from tests.compilation import jit
from tests.experiments.resamplers import loops

ROW = jnp.array([0.0, 4, 8, 16]).reshape(1, 1, 4, 1)


def at(column):
    return sample(ROW, jnp.array([0.0, column]).reshape(1, 1, 1, 1, 2))[0, 0, 0, 0]


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
    x = rng.normal(size=(2, height, width, 6)).astype(np.float32)
    positions = rng.uniform(-2, 7, size=(2, *targets, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(jit(sample)(x, positions), loops.sample(x, positions), atol=1e-5)


def test_gradients_equal_finite_differences():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(1, 4, 3, 2)).astype(np.float32)
    positions = rng.uniform(-1, 4, size=(1, 5, 4, 2, 2)).astype(np.float32)
    loops.check_gradients(sample, loops.sample, x, positions)


def test_there_is_no_gradient_outside_the_map():
    gradient = jit(jax.grad(at))
    assert gradient(0.25) == 4
    assert gradient(-0.25) == gradient(3.25) == gradient(1e9) == 0


def test_bfloat16_gradients_are_summed_in_float32():
    x = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    gradient = jax.grad(lambda x: sample(x, jnp.zeros((1, 16, 16, 1, 2))).sum())
    assert jax.eval_shape(gradient, x).dtype == jnp.bfloat16
    # A CPU sums bfloat16 in float32 anyway, so the test examines the traced program.
    sums = re.findall(r":(\w+)\[\S*\] = scatter-add", str(jax.make_jaxpr(gradient)(x)))
    assert set(sums) == {"f32"}


def test_the_positions_of_bilinear_interpolation_double_a_map_bilinearly():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32)
    positions = jnp.tile(bilinear_positions(4, 3), (2, 1, 1, 1, 1))
    np.testing.assert_allclose(jit(sample)(x, positions), bilinear(x), atol=1e-6)
