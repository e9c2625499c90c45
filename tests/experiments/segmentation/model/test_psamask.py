import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.segmentation.model.psamask import psamask
from tests.compilation import jit
from tests.experiments.segmentation.model import head_loops as loops


def masks(height, width, side):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, height, width, side * side)).astype(np.float32)


@pytest.mark.parametrize("direction", ["collect", "distribute"])
@settings(max_examples=12)
@given(height=st.integers(1, 6), width=st.integers(1, 6), side=st.integers(1, 13))
def test_it_equals_the_loop(direction, height, width, side):
    x = masks(height, width, side)
    found = jit(lambda x: psamask(x, side, direction))(x)
    np.testing.assert_array_equal(found, loops.psamask(x, side, direction))


@pytest.mark.parametrize("side", [2, 3])
def test_a_row_of_three_pixels_by_hand(side):
    x = np.arange(1, 3 * side**2 + 1, dtype=np.float32).reshape(1, 1, 3, side**2)
    # The middle row of a mask of 3x3, the first of one of 2x2; both start from the middle entry.
    first, second, third = x[0, 0, :, 3:6] if side == 3 else x[0, 0, :, :2]
    if side == 3:
        expected = [[*first[1:], 0], second, [0, *third[:2]]]
    else:
        expected = [[*first, 0], [0, *second], [0, 0, third[0]]]
    np.testing.assert_array_equal(psamask(x, side, "collect")[0], expected)
    np.testing.assert_array_equal(psamask(x, side, "distribute")[0], np.transpose(expected))


@pytest.mark.parametrize("direction", ["collect", "distribute"])
@pytest.mark.parametrize(("height", "width", "side"), [(3, 4, 5), (4, 2, 2), (2, 3, 8)])
def test_the_gradient_is_the_transposed_map(direction, height, width, side):
    x = masks(height, width, side)
    y, pull = jax.vjp(lambda x: psamask(x, side, direction), x)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    (gradient,) = pull(jnp.asarray(dy))
    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape[1:]):
        one = np.zeros_like(x)
        one[:, *index] = 1
        expected[:, *index] = (loops.psamask(one, side, direction) * dy).sum(axis=(1, 2))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    program = jax.jit(jax.grad(lambda x: psamask(x, side, direction).sum())).lower(x).as_text()
    assert "scatter" not in program
    assert "gather" not in program


@pytest.mark.parametrize(
    ("shape", "side", "direction", "message"),
    [
        ((2, 3, 9), 3, "collect", r"x must be \[B, H, W, C\].*\(2, 3, 9\)"),
        ((1, 0, 3, 9), 3, "collect", r"x must have.*at least 1.*\(1, 0, 3, 9\)"),
        ((1, 2, 3, 9), 2, "collect", r"x must have 4 channels.*\(1, 2, 3, 9\)"),
        ((1, 2, 3, 9), 0, "collect", r"side.*at least 1.* 0$"),
        ((1, 2, 3, 9), 3, "both", r"direction.*'distribute'.*'both'"),
    ],
)
def test_what_does_not_fit_is_named(shape, side, direction, message):
    with pytest.raises(ValueError, match=re.compile(message)):
        psamask(jnp.ones(shape), side, direction)
