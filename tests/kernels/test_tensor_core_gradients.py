"""The gradients on the tensor cores."""

import contextlib
import dataclasses
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
from carafe_kernels.mosaic_gpu.buffers import SHARED_MEMORY, is_one_piece, two_blocks_fit
from carafe_kernels.mosaic_gpu.input_band_tiling import input_band_tile, input_bands_reason
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.weight_product_tiling import (
    weight_product_tile,
    weight_products_reason,
)
from carafe_kernels.plan import Plan
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import mosaic_gpu as plgpu

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.from_logits import carafe_and_gradients
from tests.kernels.interpreter import RaceError, interpreted
from tests.kernels.interpreter_of_matrices import reshaped_references
from tests.kernels.tensor_cores import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    call_of,
    lowered_text,
    problems,
)
from tests.slow import slow

BANDS, PRODUCTS = {"input_gradient": "bands"}, {"weight_gradient": "products"}
BOTH = {**BANDS, **PRODUCTS}


@contextlib.contextmanager
def tensor_cores(**changes):
    options = {"gradients": "apart", **BOTH, **changes}
    with interpreted(), reshaped_references(), mosaic_gpu.using(**options):
        yield


def operator(case, normalizer):
    options = {"implementation": "mosaic_gpu", **case.options}
    if normalizer is None:
        return functools.partial(carafe_jax.reassemble, **options)
    return functools.partial(carafe_jax.carafe, normalizer=normalizer, **options)


def random_operands(case, normalizer, dtype, weights_dtype, seed=0):
    rng = np.random.default_rng(seed)
    weights_shape = case.weights_shape if normalizer is None else case.logits_shape
    shapes = (case.x_shape, dtype), (weights_shape, weights_dtype), (case.y_shape, dtype)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape, dtype in shapes]


def assert_equals_oracle(case, normalizer, dtype, weights_dtype, seed=0, **changes):
    """Compares within one rounding of the results; weights rounded to 16 bits would exceed it."""
    x, weights, dy = random_operands(case, normalizer, dtype, weights_dtype, seed)
    with tensor_cores(**changes):
        dx, dweights = jax.block_until_ready(jax.vjp(operator(case, normalizer), x, weights)[1](dy))
    assert (dx.dtype, dweights.dtype) == (dtype, weights_dtype)
    x, weights, dy = (np.float64(array) for array in (x, weights, dy))
    if normalizer is None:
        desired = oracle.weight_gradient(x, dy, **case.options)
    else:
        with jax.enable_x64(True):
            _, _, desired = carafe_and_gradients(case, normalizer, "xla")(x, weights, dy)
        weights = oracle.kernels(weights, case.size, normalizer, **case.options)
    eps = max(float(jnp.finfo(weights_dtype).eps), 1e-5)
    np.testing.assert_allclose(np.float64(dweights), desired, rtol=0.52 * eps, atol=eps / 16)
    desired = oracle.input_gradient(weights, dy, case.size, **case.options)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(dx), desired, rtol=0.52 * eps, atol=eps / 16)


# The sizes are a part of a block, several blocks, and a single row or column. 70 channels are two
# steps, and 280 are two blocks of the input gradient.
CASES = [
    (Case(3, up=2, size=(5, 9), batch=1, groups=2, group_channels=12), None, BFLOAT16, FLOAT32),
    (Case(5, up=2, size=(9, 7), group_channels=24), None, BFLOAT16, FLOAT32),
    (Case(5, up=2, size=(5, 15), batch=1, group_channels=70), None, BFLOAT16, FLOAT32),
    (Case(1, up=2, size=(6, 9), batch=1, group_channels=20), None, BFLOAT16, FLOAT32),
    # Weights in one part.
    (Case(3, up=2, size=(5, 3), batch=1, groups=2, group_channels=12), None, BFLOAT16, BFLOAT16),
    (Case(3, up=2, size=(1, 9), batch=1, groups=2, group_channels=20), None, FLOAT16, FLOAT16),
    (Case(5, up=2, size=(6, 1), batch=1, group_channels=16), "softmax", BFLOAT16, FLOAT32),
    (Case(5, up=2, size=(5, 9), batch=1, group_channels=20), "softmax", BFLOAT16, BFLOAT16),
    (Case(3, up=2, size=(4, 7), batch=1, groups=4), "sigmoid_normalized", BFLOAT16, BFLOAT16),
    (Case(3, up=2, size=(3, 5), batch=1, groups=2), "softmax", FLOAT16, FLOAT32),
    (Case(3, up=2, size=(2, 2), batch=1, group_channels=280), "sigmoid", BFLOAT16, FLOAT16),
]


@pytest.mark.parametrize(
    ("case", "normalizer", "dtype", "weights_dtype"),
    [CASES[0], *(slow(*case) for case in CASES[1:])],
    ids=str,
)
def test_equal_the_oracle(case, normalizer, dtype, weights_dtype):
    assert_equals_oracle(case, normalizer, dtype, weights_dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "weights_dtype"),
    [
        (Case(5, up=2, size=(5, 9), batch=1, group_channels=20), BFLOAT16),
        (Case(3, up=2, size=(3, 5), batch=1, groups=3, group_channels=10), FLOAT32),
    ],
    ids=str,
)
def test_products_serve_weights_that_bands_do_not(case, weights_dtype):
    assert_equals_oracle(case, None, BFLOAT16, weights_dtype, input_gradient="multiply_add")


@pytest.mark.slow
def test_one_buffer_for_all_steps():
    case = Case(3, up=2, size=(3, 4), batch=1, group_channels=200)
    assert_equals_oracle(case, None, BFLOAT16, FLOAT32, max_slots=1)


@pytest.mark.parametrize("tile_of", [input_band_tile, weight_product_tile])
def test_one_slot_takes_less_memory_than_two(tile_of):
    problem = Problem(Geometry(5, 2), 1, (9, 9), 256, BFLOAT16, FLOAT32)
    tiles = tile_of(problem), tile_of(problem, 1)
    assert [tile.slots for tile in tiles] == [2, 1]
    assert tiles[1].nbytes < tiles[0].nbytes


def test_products_refuse_narrow_maps():
    """A tile of 4 columns would be stored as one piece, and not be clipped."""
    problem = Problem(Geometry(3, 2), 1, (3, 2), 200, BFLOAT16, FLOAT32)
    assert "2 columns of cells is too narrow" in str(weight_products_reason(problem))
    assert weight_products_reason(dataclasses.replace(problem, size=(3, 4))) is None


@pytest.mark.slow
@settings(max_examples=4)
@given(
    st.builds(
        Case,
        kernel_size=st.sampled_from([1, 3, 5]),
        up=st.just(2),
        groups=st.sampled_from([1, 2]),
        size=st.tuples(st.integers(1, 9), st.integers(5, 15)),
        batch=st.integers(1, 2),
        group_channels=st.integers(1, 30),
    ),
    st.sampled_from([(None, FLOAT32), ("softmax", FLOAT32), ("softmax", BFLOAT16)]),
    st.integers(0, 99),
)
def test_random_cases_equal_the_oracle(case, kernels, seed):
    normalizer, weights_dtype = kernels
    assert_equals_oracle(case, normalizer, BFLOAT16, weights_dtype, seed)


@pytest.mark.slow
@pytest.mark.parametrize("normalizer", [None, "softmax"])
def test_one_launch_equals_two_launches(normalizer):
    case = Case(3, up=2, size=(5, 7), batch=1, group_channels=8)
    x, weights, dy = random_operands(case, normalizer, BFLOAT16, FLOAT32)
    results = []
    for gradients in ("apart", "together"):
        with tensor_cores(gradients=gradients):
            pullback = jax.vjp(operator(case, normalizer), x, weights)[1]
            results.append(jax.block_until_ready(pullback(dy)))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_value_that_is_not_finite_stays_near_its_pixel():
    """It may affect the source squares next to the pixel, but no other rows or columns."""
    case = Case(5, up=2, size=(16, 25), batch=1, group_channels=8)
    x, weights, dy = random_operands(case, None, BFLOAT16, FLOAT32)
    with tensor_cores():
        dx, dweights = jax.vjp(operator(case, None), x, weights)[1](dy.at[0, 16, 24, 0].set(np.inf))
    rows, columns, channels = np.nonzero(~np.isfinite(np.float32(dx[0])))
    assert (set(rows), set(channels)) == (set(range(4, 12)), {0})
    assert set(columns) <= set(range(6, 20))
    found = ~np.isfinite(np.float32(dweights[0])).all(axis=-1)
    assert np.argwhere(found).tolist() == [[16, 24]]


@pytest.mark.parametrize(
    ("contraction", "missing", "channels"),
    [
        ("input_gradient", "barrier_wait", 104),
        ("input_gradient", "commit_smem", 96),
        slow("input_gradient", "wait_smem_to_gmem", 280),
        ("weight_gradient", "barrier_wait", 72),
        ("weight_gradient", "commit_smem", 80),
    ],
)
def test_a_missing_barrier_is_found(contraction, missing, channels):
    """Each case has other shapes, or JAX would reuse the program of an earlier case.

    The interpreter finds races of threads with copies only, not of threads with each other.
    """
    case = Case(1, up=2, size=(2, 3), batch=1, group_channels=channels)
    x, weights, dy = random_operands(case, None, BFLOAT16, FLOAT32)
    result, operands = {
        "input_gradient": ("x", {"weights": weights, "y": dy}),
        "weight_gradient": ("weights", {"x": x, "y": dy}),
    }[contraction]

    def contract():
        with tensor_cores(), mock.patch.object(plgpu, missing):
            plan = Plan(Geometry(1, 2), case.size, BFLOAT16, FLOAT32, None, "mosaic_gpu",
                        settings=mosaic_gpu.current_settings())  # fmt: skip
            mosaic_gpu.IMPLEMENTATION.contract(plan, (result,), operands)

    with pytest.raises((RaceError, RuntimeError), match=r"(?i)race"):
        contract()


# Tiles


@settings(max_examples=150)
@given(problems)
def test_copies_can_move_the_tiles_of_the_input_gradient(problem):
    if input_bands_reason(problem):
        return
    tile, groups = input_band_tile(problem), problem.geometry.groups
    assert tile.nbytes <= SHARED_MEMORY
    assert tile.pitch % 16 == 8
    assert tile.pitch <= 256
    _, _, *box = tile.map_shape
    assert math.prod(box) * 2 % 128 == 0
    assert math.prod(tile.out_shape[1:]) * 2 % 128 == 0
    assert math.prod(tile.band_shape[3:]) % 16 == 8
    block_channels = tile.chunks * tile.channels
    assert block_channels <= 256
    assert tile.blocks_per_group * block_channels >= tile.group_channels >= problem.group_channels
    assert groups == 1 or tile.group_channels == tile.blocks_per_group * block_channels
    assert tile.cells.padded_rows >= tile.cell_rows
    assert (tile.cells.lead, tile.cells.padded_kernels) == (0, tile.cells.kernels)
    assert tile.cells_per_box in (1, 2)
    if groups > 1 and problem.group_channels % 32 == 0:
        assert tile.group_channels == problem.group_channels  # not padded
    array = (*problem.size, groups * tile.group_channels)
    assert not is_one_piece((4, 4, tile.channels), array)


@settings(max_examples=150)
@given(problems)
def test_copies_can_move_the_tiles_of_the_weight_gradient(problem):
    if weight_products_reason(problem):
        return
    tile, groups = weight_product_tile(problem), problem.geometry.groups
    assert tile.nbytes <= SHARED_MEMORY
    assert tile.pitch % 16 == 8
    assert tile.steps * tile.channels >= tile.group_channels >= problem.group_channels
    assert groups == 1 or tile.group_channels == tile.steps * tile.channels
    for _, *box in (tile.source_shape, tile.output_shape):
        assert math.prod(box) * 2 % 128 == 0
    assert not tile.cells.is_one_piece


def test_two_blocks_share_a_multiprocessor_and_groups_are_not_padded():
    """48 channels would cost as little as 32, but two groups of 128 are no multiple of them."""
    problem = Problem(Geometry(5, 2, groups=2), 2, (25, 42), 256, BFLOAT16, FLOAT32)
    for tile in (input_band_tile(problem), weight_product_tile(problem)):
        assert two_blocks_fit(tile.nbytes)
        assert tile.group_channels == 128
    # With 64 channels per step, only one block would fit.
    assert weight_product_tile(problem).channels == 32


def test_a_map_whose_blocks_would_be_one_piece_gets_other_tiles():
    """A tile of 4 x 4 pixels and 32 channels would be stored as one piece, and not be clipped."""
    problem = Problem(Geometry(5, 2), 2, (9, 4), 32, BFLOAT16, FLOAT32)
    assert input_band_tile(problem).channels == 64


# The choice of the kernels


def traced(*arguments, **options):
    function, operands = call_of(*arguments, **options)
    return str(jax.make_jaxpr(function)(operands))


@pytest.mark.parametrize(
    ("geometry", "weights_dtype", "normalizer"),
    [
        (Geometry(5, 2), "bfloat16", "softmax"),
        slow(Geometry(5, 2), "float32", None),
        slow(Geometry(3, 2, groups=2), "float32", "sigmoid"),
        slow(Geometry(1, 2, groups=8), "bfloat16", None),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, slow({"max_slots": 1}), slow({"padded_maps": True})])
@pytest.mark.parametrize("result", ["x", "weights", slow("both")])
def test_kernels_lower_when_named(geometry, weights_dtype, normalizer, options, result):
    text = lowered_text(
        geometry, "bfloat16", weights_dtype, result, normalizer=normalizer, **BOTH, **options
    )
    names = {
        "x": "input_gradient_bands", "weights": "weight_gradient_products", "both": "gradients"
    }  # fmt: skip
    assert f"carafe_{names[result]}" in text


PROBLEM = Problem(Geometry(5, 2), 2, (25, 42), 256, BFLOAT16, FLOAT32)


@pytest.mark.parametrize(
    ("choose", "settings", "name"),
    [
        (variants.input_gradient_variant, BANDS, "carafe_input_gradient_bands"),
        (variants.weight_gradient_variant, PRODUCTS, "carafe_weight_gradient_products"),
    ],
    ids=["input_gradient", "weight_gradient"],
)
def test_tensor_cores_are_used_only_when_named(choose, settings, name):
    assert choose(PROBLEM, mosaic_gpu.Settings(**settings))[0] == name
    others = dict.fromkeys(settings, "multiply_add")
    for other in (mosaic_gpu.Settings(), mosaic_gpu.Settings(**others)):
        assert choose(PROBLEM, other)[0] in ("carafe_input_gradient", "carafe_weight_gradient")


def test_both_gradients_in_one_launch_use_the_named_kernels():
    """Each kernel on the tensor cores has matrix products of its own."""

    def products(result, **options):
        text = traced(Geometry(5, 2), "bfloat16", "float32", result, 64, **options)
        return text.count(" mma")

    dx, dw = products("x", **BANDS), products("weights", **PRODUCTS)
    assert 0 < dx != dw > 0
    for options, expected in [({}, 0), (BANDS, dx), (PRODUCTS, dw), (BOTH, dx + dw)]:
        assert products("both", **options) == expected


@pytest.mark.parametrize(
    ("contraction", "geometry", "dtype", "weights_dtype", "reason"),
    [
        *(
            (contraction, *case)
            for contraction in BOTH
            for case in [
                (Geometry(5, 2), "float32", "float32", "16-bit maps, not float32"),
                (Geometry(5, 4), "bfloat16", "float32", "not up 4"),
                (Geometry(5, 1, 2), "bfloat16", "float32", "not up 1 and down 2"),
                (Geometry(5, 2, groups=16), "bfloat16", "float32", "more shared memory"),
            ]
        ),
        ("input_gradient", Geometry(7, 2), "bfloat16", "float32", "more than 2 strips"),
        ("input_gradient", Geometry(5, 2, groups=3), "bfloat16", "float32", "not 3"),
        ("input_gradient", Geometry(5, 2), "float16", "float32", "every weight of float32"),
        ("input_gradient", Geometry(5, 2), "bfloat16", "bfloat16", "multiple of 16 bytes"),
        ("weight_gradient", Geometry(7, 2), "bfloat16", "float32", "kernel_size 7 is wider"),
        ("weight_gradient", Geometry(5, 2, groups=8), "bfloat16", "bfloat16", "cannot move"),
    ],
    ids=str,
)
def test_kernels_that_are_named_refuse_unsupported_calls(
    contraction, geometry, dtype, weights_dtype, reason
):
    result = "x" if contraction == "input_gradient" else "weights"
    options = {contraction: BOTH[contraction]}
    with pytest.raises(NotImplementedError, match=f"{contraction} '[a-z]+' .*{reason}"):
        lowered_text(geometry, dtype, weights_dtype, result, channels=48, **options)
