import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.errors import naming
from tests.kernels.sharding import each_axis_type, over_the_batch, run_and_collectives

NORMALIZERS = sorted(oracle.NORMALIZERS)
CASES = [
    Case(3, up=2, size=(3, 4)),
    Case(3, down=2, groups=2, size=(5, 4)),
    Case(3, up=3, down=2, size=(5, 3)),
]


def random_map_and_logits(case, dtype=np.float32):
    rng = np.random.default_rng(0)
    x, logits = rng.standard_normal(case.x_shape), 2 * rng.standard_normal(case.logits_shape)
    return jnp.asarray(x, dtype), jnp.asarray(logits, dtype)


# carafe


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_carafe_normalizes_then_rearranges_then_reassembles(case, normalizer):
    x, logits = random_map_and_logits(case)
    weights = oracle.kernels(logits, case.size, normalizer, **case.options)
    y = carafe_jax.carafe(x, logits, normalizer=normalizer, **case.options)
    expected = oracle.reassemble(x, weights, **case.options)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_carafe_is_reassembly_with_the_kernels_it_shows(case):
    x, logits = random_map_and_logits(case)
    kernels = carafe_jax.reassembly_kernels(x, logits, **case.options)
    assert kernels.shape == case.weights_shape
    np.testing.assert_array_equal(
        carafe_jax.reassemble(x, kernels, **case.options),
        carafe_jax.carafe(x, logits, **case.options),
    )


def test_softmax_is_the_default_normalizer():
    x, logits = random_map_and_logits(CASES[0])
    options = CASES[0].options
    np.testing.assert_array_equal(
        carafe_jax.carafe(x, logits, **options),
        carafe_jax.carafe(x, logits, normalizer="softmax", **options),
    )


def test_a_constant_map_loses_exactly_the_weight_that_falls_outside():
    case = Case(5, up=2, size=(4, 5))
    _, logits = random_map_and_logits(case)
    x = jnp.ones(case.x_shape)
    y = carafe_jax.carafe(x, logits, **case.options)
    kernels = oracle.kernels(logits, case.size, "softmax", **case.options)
    inside = np.zeros(case.y_shape[:3])
    for (row, column), _, tap in oracle.reads(case.size, case.kernel_size, case.up, case.down):
        inside[:, row, column] += kernels[:, row, column, tap]
    assert inside[:, 0, 0].max() < 0.9
    for channel in range(y.shape[-1]):
        np.testing.assert_allclose(y[..., channel], inside, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_carafe_returns_the_dtype_of_the_map_and_computes_kernels_in_float32(dtype):
    x, logits = random_map_and_logits(CASES[0], dtype)
    kernels = carafe_jax.reassembly_kernels(x, logits, **CASES[0].options)
    assert kernels.dtype == jnp.float32
    y, vjp = jax.vjp(lambda *a: carafe_jax.carafe(*a, **CASES[0].options), x, logits)
    assert y.dtype == dtype
    assert [gradient.dtype for gradient in vjp(y)] == [dtype, dtype]


def test_carafe_gradient_flows_to_the_map_and_to_the_logits():
    case = dataclasses.replace(CASES[2], batch=1)
    with jax.enable_x64(True):
        x, logits = random_map_and_logits(case, np.float64)
        function = jax.jit(lambda x, logits: carafe_jax.carafe(x, logits, **case.options))
        check_grads(function, (x, logits), order=1, modes=["rev"], rtol=1e-5)


def test_mmcv_orders_the_same_logits_for_pixel_shuffle():
    """mmcv: channel `((g*k*k + tap)*up + sy)*up + sx`, spread by pixel_shuffle, then softmax."""
    case = Case(3, up=2, groups=2, size=(3, 4))
    up, taps = case.up, case.kernel_size**2
    x, _ = random_map_and_logits(case)
    batch, rows, columns, channels = case.logits_shape
    mmcv = np.random.default_rng(1).standard_normal((batch, channels, rows, columns))

    shuffled = mmcv.reshape(batch, case.groups * taps, up, up, rows, columns)
    shuffled = shuffled.transpose(0, 1, 4, 2, 5, 3).reshape(batch, -1, rows * up, columns * up)
    masks = oracle.softmax(np.moveaxis(shuffled, 1, -1).reshape(*case.weights_shape[:3], -1, taps))

    converted = mmcv.reshape(batch, case.groups, taps, up, up, rows, columns)
    converted = converted.transpose(0, 5, 6, 3, 4, 1, 2).reshape(case.logits_shape)
    kernels = carafe_jax.reassembly_kernels(x, np.float32(converted), **case.options)
    np.testing.assert_allclose(kernels, masks.reshape(case.weights_shape), rtol=1e-5)


@each_axis_type
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sharded_batch_stays_sharded_without_communication(case, axis_type):
    operands = random_map_and_logits(dataclasses.replace(case, batch=jax.local_device_count()))
    sharding = over_the_batch(axis_type)
    sharded = jax.device_put(operands, sharding)
    function = jax.jit(functools.partial(carafe_jax.carafe, **case.options))
    y, moved = run_and_collectives(function, *sharded)
    assert y.sharding.is_equivalent_to(sharding, y.ndim)
    np.testing.assert_allclose(y, function(*operands), rtol=1e-6, atol=1e-6)
    assert not moved


# Operands


def test_numpy_arrays_serve_as_operands():
    x, weights, _ = CASES[0].random_operands()
    y = carafe_jax.reassemble(x, weights, **CASES[0].options)
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(
        y, carafe_jax.reassemble(jnp.asarray(x), jnp.asarray(weights), **CASES[0].options)
    )


def test_forward_mode_is_refused():
    x, weights, _ = CASES[0].random_operands()
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: carafe_jax.reassemble(x, weights, **CASES[0].options), (x,), (x,))


# Bad input

X = jnp.ones((2, 4, 5, 6))
WEIGHTS = jnp.ones((2, 4, 5, 9))
LOGITS = jnp.ones((2, 4, 5, 9))


BAD_OPTIONS = [
    *itertools.product(("kernel_size", "up", "down", "groups"), (0, -3, 2.0, "2", True, None)),
    ("kernel_size", 4),
    ("groups", 4),
    ("implementation", "triton"),
]
BAD_MAPS = [
    (jnp.ones((5, 6)), (5, 6)),
    (jnp.ones((2, 4, 5, 6), jnp.int32), "int32"),
    (jnp.ones((2, 4, 5, 6), bool), "bool"),
    (jnp.ones((2, 4, 5, 6), complex), "complex64"),
    (jnp.ones((2, 4, 5, 6), jnp.float8_e4m3fn), "float8_e4m3fn"),
    ([[[[1.0]]]], "list"),
    (1.0, "float"),
    (None, "NoneType"),
    *((jnp.ones(shape), shape) for shape in [(2, 0, 5, 6), (2, 4, 0, 6), (2, 4, 5, 0)]),
]
BAD_SECONDS = [
    *(
        (jnp.ones(shape), shape)
        for shape in [(3, 4, 5, 9), (1, 4, 5, 9), (2, 3, 5, 9), (2, 4, 6, 9), (2, 4, 5, 25)]
    ),
    (jnp.ones((2, 4, 5)), (2, 4, 5)),
    (jnp.ones((2, 4, 5, 9), jnp.int32), "int32"),
    ([[[[1.0]]]], "list"),
]


@pytest.mark.parametrize("function", [carafe_jax.reassemble, carafe_jax.carafe])
@pytest.mark.parametrize(("name", "value"), BAD_OPTIONS)
def test_bad_options_are_named(function, name, value):
    with pytest.raises(ValueError, match=naming(name, "got", repr(value))):
        function(X, WEIGHTS, **{"kernel_size": 3, name: value})


@pytest.mark.parametrize(
    "function", [carafe_jax.reassemble, carafe_jax.carafe, carafe_jax.reassembly_kernels]
)
@pytest.mark.parametrize(("x", "found"), BAD_MAPS, ids=str)
def test_bad_maps_are_named(function, x, found):
    with pytest.raises(ValueError, match=rf"^x .*{naming('got', found)}$"):
        function(x, WEIGHTS, kernel_size=3)


@pytest.mark.parametrize(("weights", "found"), BAD_SECONDS, ids=str)
def test_bad_weights_are_named(weights, found):
    with pytest.raises(ValueError, match=naming("weights", "got", found)):
        carafe_jax.reassemble(X, weights, kernel_size=3)


@pytest.mark.parametrize("function", [carafe_jax.carafe, carafe_jax.reassembly_kernels])
@pytest.mark.parametrize(("logits", "found"), BAD_SECONDS, ids=str)
def test_bad_logits_are_named(function, logits, found):
    with pytest.raises(ValueError, match=naming("logits", "got", found)):
        function(X, logits, kernel_size=3)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"up": 2}, (2, 8, 10, 9)),
        ({"down": 2}, (2, 2, 3, 9)),
        ({"up": 3, "down": 2, "groups": 2}, (2, 6, 8, 18)),
    ],
    ids=str,
)
def test_the_expected_shape_of_weights_follows_the_scale(options, shape):
    with pytest.raises(ValueError, match=naming("weights", shape, X.shape, "got", WEIGHTS.shape)):
        carafe_jax.reassemble(X, WEIGHTS, kernel_size=3, **options)


@pytest.mark.parametrize("function", [carafe_jax.carafe, carafe_jax.reassembly_kernels])
def test_an_unknown_normalizer_is_named(function):
    with pytest.raises(ValueError, match=naming("normalizer", "softmax", "relu")):
        function(X, LOGITS, kernel_size=3, normalizer="relu")


@pytest.mark.parametrize("function", [carafe_jax.reassemble, carafe_jax.carafe])
def test_an_absent_implementation_says_why_and_what_would_do(function):
    with pytest.raises(NotImplementedError, match=naming("mosaic_gpu", "cpu", "9.0", "'xla'")):
        function(X, WEIGHTS, kernel_size=3, implementation="mosaic_gpu")
