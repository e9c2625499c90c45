import functools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import forward_tile, input_gradient_tile
from carafe_kernels.normalizers import NORMALIZERS
from jax.experimental.pallas import mosaic_gpu as plgpu

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.from_logits import carafe_and_gradients, random_map_logits_and_cotangent
from tests.kernels.interpreter import RaceError, interpreted
from tests.kernels.operator_base import OperatorTests


@pytest.mark.slow
class TestMosaicGpu(OperatorTests):
    """Runs the kernels in an interpreter that looks for races."""

    implementation = "mosaic_gpu"
    factors = (1, 2, 3)
    dtypes = ("float16", "bfloat16", "float32")
    small_examples = 3
    examples = 3

    @pytest.fixture(autouse=True)
    def interpreter(self):
        with interpreted():
            yield

    def supports(self, case):
        divisor = math.gcd(case.up, case.down)
        up, down = case.up // divisor, case.down // divisor
        return min(up, down) == 1 and down <= 3 and case.batch > 0


# Kernels that normalise logits

FUSED = [
    (Case(3, up=2, size=(3, 4), batch=1), "softmax", "float32"),
    (Case(3, up=2, size=(5, 3), groups=2, batch=1), "sigmoid", "bfloat16"),
    (Case(3, up=3, size=(3, 2)), "sigmoid_normalized", "float16"),
    (Case(3, up=4, size=(2, 3), batch=1), "softmax", "bfloat16"),
    (Case(5, down=2, size=(7, 8)), "softmax", "bfloat16"),
    (Case(5, down=2, size=(5, 6), groups=2, batch=1), "sigmoid_normalized", "float32"),
    (Case(3, down=3, size=(8, 7), batch=1), "sigmoid", "float32"),
    # A row of several tiles, the last one partly outside the map.
    (Case(3, up=2, size=(2, 19), batch=1), "softmax", "bfloat16"),
    (Case(3, down=2, size=(3, 37), batch=1), "softmax", "bfloat16"),
    # A cell with more entries than one copy moves; kernels that are copied in float32 only.
    (Case(5, up=2, groups=3, size=(2, 3), batch=1), "softmax", "float32"),
    (Case(7, up=2, size=(2, 3), batch=1), "softmax", "bfloat16"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "normalizer", "dtype"), FUSED, ids=str)
def test_logits_are_normalised_in_the_kernel(case, normalizer, dtype):
    operands = random_map_logits_and_cotangent(case, dtype)
    with interpreted(), mock.patch.dict(NORMALIZERS, {normalizer: None}):  # not by XLA
        actual = jax.jit(carafe_and_gradients(case, normalizer, "mosaic_gpu"))(*operands)
    x, logits, dy = (np.float64(operand) for operand in operands)
    weights = oracle.kernels(logits, case.size, normalizer, **case.options)
    y = oracle.reassemble(x, weights, **case.options)
    dx = oracle.input_gradient(weights, dy, case.size, **case.options)
    with jax.enable_x64(True):
        _, _, dlogits = carafe_and_gradients(case, normalizer, "xla")(x, logits, dy)
    for value, desired in zip(actual, (y, dx, dlogits), strict=True):
        assert value.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.float64(value), desired, rtol=max(eps, 1e-5), atol=1e-5)


@pytest.mark.slow
def test_second_derivatives_by_logits_equal_those_of_xla():
    case = Case(3, up=2, size=(3, 2), batch=1)
    operands = random_map_logits_and_cotangent(case, "float32")

    def penalty(implementation):
        run = carafe_and_gradients(case, "softmax", implementation)
        return jax.jit(
            jax.grad(
                lambda *operands: sum(jnp.sum(part**2) for part in run(*operands)),
                argnums=(0, 1, 2),
            )
        )

    with interpreted():
        actual = penalty("mosaic_gpu")(*operands)
    for value, desired in zip(actual, penalty("xla")(*operands), strict=True):
        np.testing.assert_allclose(value, desired, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_vmap_equals_a_loop():
    case = Case(1, down=2, size=(5, 4), batch=1)
    x, logits, dy = random_map_logits_and_cotangent(case, "float32")
    several = [jnp.stack([array, 2 * array, -array]) for array in (x, dy)]
    run = carafe_and_gradients(case, "softmax", "mosaic_gpu")
    with interpreted():
        mapped = jax.jit(jax.vmap(run, (0, None, 0)))(several[0], logits, several[1])
        looped = [jax.jit(run)(x, logits, dy) for x, dy in zip(*several, strict=True)]
    for value, *others in zip(mapped, *looped, strict=True):
        np.testing.assert_allclose(value, np.stack(others), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [
        (3, "bfloat16"),
        (24, "float32"),
        (100, "bfloat16"),
        (320, "float32"),
        (320, "bfloat16"),
    ],
)
def test_any_number_of_channels(channels, dtype):
    """Channels that do not fill a tile, that no copy can address, or that need several steps.

    With 320 channels, each of the two buffers is filled more than once.
    """
    case = Case(3, up=2, size=(2, 3), batch=1, group_channels=channels)
    operands = random_map_logits_and_cotangent(case, dtype)
    with interpreted():
        actual = jax.jit(carafe_and_gradients(case, "softmax", "mosaic_gpu"))(*operands)
    desired = carafe_and_gradients(case, "softmax", "xla")(*operands)
    eps = float(jnp.finfo(dtype).eps)
    for value, other in zip(actual, desired, strict=True):
        np.testing.assert_allclose(
            np.float64(value), np.float64(other), rtol=2 * eps, atol=64 * eps
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("choose", [forward_tile, input_gradient_tile])
def test_many_channels_fill_each_of_two_buffers_more_than_once(choose, dtype):
    dtype = jnp.dtype(dtype)
    tile = choose(Problem(Geometry(3, 2), 1, (2, 3), 320, dtype, dtype, "softmax"))
    assert (tile.slots, tile.chunks) == (2, 5)


@pytest.mark.slow
def test_a_pullback_is_interpreted_like_its_forward_pass():
    case = Case(1, up=2, size=(2, 3), batch=1)
    x, weights, dy = case.random_operands()
    operator = functools.partial(carafe_jax.reassemble, implementation="mosaic_gpu", **case.options)
    with interpreted():
        _, pullback = jax.vjp(operator, x, weights)
    dx, dw = pullback(dy)
    np.testing.assert_allclose(
        dx, oracle.input_gradient(weights, dy, case.size, **case.options), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(
        dw, oracle.weight_gradient(x, dy, **case.options), rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_one_column(scale):
    case = Case(3, **scale, size=(4, 1), batch=1)
    x, logits, dy = random_map_logits_and_cotangent(case, "float32")
    run = carafe_and_gradients(case, "softmax", "mosaic_gpu")
    with interpreted():
        actual = jax.jit(run)(x, logits, dy)
    desired = carafe_and_gradients(case, "softmax", "xla")(x, logits, dy)
    for value, other in zip(actual, desired, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


# Races


@pytest.mark.parametrize("missing", ["barrier_wait", "commit_smem"])
def test_a_missing_barrier_is_found(missing):
    case = Case(1, up=2, size=(2, 3), batch=1, group_channels=40)
    x, weights, _ = case.random_operands()
    skip = mock.patch.object(plgpu, missing)
    with pytest.raises((RaceError, RuntimeError), match=r"(?i)race"), interpreted(), skip:
        carafe_jax.reassemble(x, weights, implementation="mosaic_gpu", **case.options)


@pytest.mark.parametrize("scale", [{"up": 2}, {"down": 2}])
def test_equals_xla(scale):
    case = Case(1, **scale, size=(3, 4), batch=1)
    operands = random_map_logits_and_cotangent(case, "float32")
    with interpreted():
        actual = carafe_and_gradients(case, "sigmoid", "mosaic_gpu")(*operands)
    desired = carafe_and_gradients(case, "sigmoid", "xla")(*operands)
    for value, other in zip(actual, desired, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-6, atol=1e-6)
