"""The forward pass on the tensor cores."""

import contextlib
import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import variants
from carafe_kernels.mosaic_gpu.buffers import SHARED_MEMORY, is_one_piece
from carafe_kernels.mosaic_gpu.forward_band_tiling import forward_band_tile, forward_bands_reason
from carafe_kernels.mosaic_gpu.problem import Problem
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.interpreter import RaceError, interpreted
from tests.kernels.interpreter_of_matrices import reshaped_references
from tests.kernels.tensor_cores import BFLOAT16, FLOAT16, FLOAT32, lowered_text, problems
from tests.slow import slow


@contextlib.contextmanager
def bands():
    with interpreted(), reshaped_references(), mosaic_gpu.using(forward="bands"):
        yield


def assert_equals_oracle(case, normalizer, dtype, weights_dtype, seed=0, **changes):
    """Compares within one rounding of the output; weights rounded to 16 bits would exceed it."""
    rng = np.random.default_rng(seed)
    weights_shape = case.weights_shape if normalizer is None else case.logits_shape
    x = jnp.asarray(rng.standard_normal(case.x_shape), dtype)
    weights = jnp.asarray(rng.standard_normal(weights_shape), weights_dtype)
    options = {"implementation": "mosaic_gpu", **case.options}
    with bands(), mosaic_gpu.using(**changes):
        if normalizer is None:
            y = carafe_jax.reassemble(x, weights, **options)
        else:
            y = carafe_jax.carafe(x, weights, normalizer=normalizer, **options)
        y = jax.block_until_ready(y)
    assert y.dtype == dtype
    weights = np.float64(weights)
    if normalizer is not None:
        weights = oracle.kernels(weights, case.size, normalizer, **case.options)
    desired = oracle.reassemble(x, weights, **case.options)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(y), desired, rtol=0.52 * eps, atol=eps / 16)


# The sizes are a part of a square, several squares, and a single row or column.
CASES = [
    (Case(1, up=2, size=(2, 3), batch=1, group_channels=3), None, BFLOAT16, FLOAT32),
    (Case(5, up=2, size=(9, 5), group_channels=24), None, BFLOAT16, FLOAT32),
    (Case(5, up=2, size=(5, 6), batch=1, group_channels=100), None, BFLOAT16, BFLOAT16),
    (Case(3, up=2, size=(4, 3), batch=1, groups=2, group_channels=12), None, BFLOAT16, FLOAT32),
    (Case(3, up=2, size=(1, 4), batch=1, group_channels=20), None, FLOAT16, FLOAT16),
    (Case(5, up=2, size=(6, 1), batch=1, group_channels=16), "softmax", BFLOAT16, FLOAT32),
    (Case(5, up=2, size=(5, 9), batch=1, group_channels=20), "softmax", BFLOAT16, BFLOAT16),
    (Case(3, up=2, size=(4, 3), batch=1, groups=4), "sigmoid_normalized", BFLOAT16, BFLOAT16),
    (Case(3, up=2, size=(3, 5), batch=1, groups=2), "sigmoid", BFLOAT16, FLOAT32),
    (Case(3, up=2, size=(3, 5), batch=1, groups=2), "softmax", FLOAT16, FLOAT32),
    (Case(3, up=2, size=(2, 2), batch=1, group_channels=280), "sigmoid", BFLOAT16, FLOAT16),
]


@pytest.mark.parametrize(
    ("case", "normalizer", "dtype", "weights_dtype"),
    [CASES[0], *(slow(*case) for case in CASES[1:])],
    ids=str,
)
def test_equals_the_oracle(case, normalizer, dtype, weights_dtype):
    assert_equals_oracle(case, normalizer, dtype, weights_dtype)


@pytest.mark.slow
def test_one_buffer_for_all_steps_over_the_channels():
    case = Case(3, up=2, size=(3, 2), batch=1, group_channels=200)
    assert_equals_oracle(case, None, BFLOAT16, FLOAT32, max_slots=1)


@pytest.mark.slow
@settings(max_examples=4)
@given(
    st.builds(
        Case,
        kernel_size=st.sampled_from([1, 3, 5]),
        up=st.just(2),
        groups=st.sampled_from([1, 2]),
        size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
        batch=st.integers(1, 2),
        group_channels=st.integers(1, 30),
    ),
    st.sampled_from([None, "softmax"]),
    st.sampled_from([BFLOAT16, FLOAT32]),
    st.integers(0, 99),
)
def test_random_cases_equal_the_oracle(case, normalizer, weights_dtype, seed):
    assert_equals_oracle(case, normalizer, BFLOAT16, weights_dtype, seed)


@pytest.mark.slow
def test_gradients_do_not_depend_on_the_forward_kernel():
    case = Case(3, up=2, size=(3, 2), batch=1, group_channels=8)
    x, weights, dy = case.random_operands(BFLOAT16)
    operator = functools.partial(carafe_jax.reassemble, implementation="mosaic_gpu", **case.options)
    results = []
    for kernels in (bands, interpreted):
        with kernels():
            y, pullback = jax.vjp(operator, x, weights)
            results.append((y, *pullback(dy)))
    (y, *gradients), (desired, *others) = results
    np.testing.assert_allclose(np.float64(y), np.float64(desired), rtol=2**-7, atol=2**-12)
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize(
    ("missing", "channels"), [("barrier_wait", 104), ("commit_smem", 96), ("wait_smem_to_gmem", 80)]
)
def test_a_missing_barrier_is_found(missing, channels):
    """Each case has other shapes, or JAX would reuse the program of an earlier case."""
    case = Case(1, up=2, size=(2, 3), batch=1, group_channels=channels)
    x, weights, _ = case.random_operands(BFLOAT16)
    skip = mock.patch.object(plgpu, missing)
    with pytest.raises((RaceError, RuntimeError), match=r"(?i)race"), bands(), skip:
        carafe_jax.reassemble(x, weights, implementation="mosaic_gpu", **case.options)


# Tiles


@settings(max_examples=150)
@given(problems)
def test_copies_can_move_the_tiles(problem):
    if forward_bands_reason(problem):
        return
    tile, groups = forward_band_tile(problem), problem.geometry.groups
    assert tile.nbytes <= SHARED_MEMORY
    assert tile.channels % 16 == 8
    assert tile.map_rows * 8 * tile.channels * 2 % 128 == 0
    assert tile.group_channels >= problem.group_channels
    assert groups == 1 or tile.group_channels == tile.steps * tile.channels
    assert tile.cells.padded_rows == tile.rows == 8
    kernels = math.prod(tile.cells.shape[:3])
    assert kernels == 4 * tile.rows * problem.geometry.up**2 * groups
    array = (*problem.output_size, groups * tile.group_channels)
    assert not is_one_piece((8, 8, tile.channels), array)


# The choice of the kernel


@pytest.mark.parametrize(
    ("geometry", "weights_dtype", "normalizer"),
    [
        (Geometry(5, 2), "float32", None),
        (Geometry(5, 2), "bfloat16", "softmax"),
        (Geometry(3, 2, groups=2), "float32", "sigmoid"),
        (Geometry(1, 2, groups=8), "bfloat16", None),
    ],
    ids=str,
)
@pytest.mark.parametrize("max_slots", [2, slow(1)])
def test_bands_lower_when_named(geometry, weights_dtype, normalizer, max_slots):
    text = lowered_text(
        geometry,
        "bfloat16",
        weights_dtype,
        "y",
        normalizer=normalizer,
        forward="bands",
        max_slots=max_slots,
    )
    assert "carafe_forward_bands" in text


def chosen(geometry, **options):
    problem = Problem(geometry, 2, (25, 42), 48, BFLOAT16, FLOAT32)
    return variants.forward_variant(problem, mosaic_gpu.Settings(**options))[0]


def test_the_table_chooses_if_no_kernel_is_named():
    assert chosen(Geometry(3, 2)) == "carafe_forward"
    with mock.patch.object(variants, "BANDS", frozenset({("bfloat16", 3, 2, 1)})):
        assert chosen(Geometry(3, 2)) == "carafe_forward_bands"
        assert chosen(Geometry(3, 2), forward="multiply_add") == "carafe_forward"
        assert chosen(Geometry(5, 2)) == "carafe_forward"
        # The table lists it, but bands do not support three groups.
        assert chosen(Geometry(3, 2, groups=3)) == "carafe_forward"


@pytest.mark.parametrize(
    ("geometry", "dtype", "weights_dtype", "reason"),
    [
        (Geometry(5, 2), "float32", "float32", "16-bit maps, not float32"),
        (Geometry(5, 4), "bfloat16", "float32", "not up 4"),
        (Geometry(5, 1, 2), "bfloat16", "float32", "not up 1 and down 2"),
        (Geometry(7, 2), "bfloat16", "float32", "kernel_size 7 is wider than 8 pixels"),
        (Geometry(5, 2, groups=3), "bfloat16", "float32", "groups must be a power of two, not 3"),
        (Geometry(5, 2, groups=16), "bfloat16", "float32", "more shared memory"),
        (Geometry(5, 2), "float16", "float32", "float16 cannot hold every weight of float32"),
    ],
    ids=str,
)
def test_bands_that_are_named_refuse_unsupported_calls(geometry, dtype, weights_dtype, reason):
    with pytest.raises(NotImplementedError, match=f"forward 'bands' .*{reason}"):
        lowered_text(geometry, dtype, weights_dtype, "y", channels=48, forward="bands")


def test_float16_cannot_hold_small_sigmoids():
    """All weights of a kernel may be tiny, unlike those of kernels whose weights sum to 1."""
    sigmoid, softmax = (
        Problem(Geometry(5, 2), 2, (25, 42), 48, FLOAT16, FLOAT32, normalizer)
        for normalizer in ("sigmoid", "softmax")
    )
    with pytest.raises(NotImplementedError, match="every weight of normalizer 'sigmoid'"):
        variants.forward_variant(sigmoid, mosaic_gpu.Settings(forward="bands"))
    assert variants.forward_variant(sigmoid, mosaic_gpu.Settings())[0] == "carafe_forward"
    assert variants.forward_variant(softmax, mosaic_gpu.Settings())[0] == "carafe_forward_bands"
