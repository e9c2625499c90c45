"""Tests of the operator, which every implementation subclasses."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from jax.test_util import check_grads

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case, cases
from tests.slow import slow

MAIN_CASES = [
    Case(5, up=2),
    Case(3, up=4, size=(3, 4)),
    Case(5, down=2, groups=3, size=(7, 9)),
    Case(3, up=3, down=2, size=(5, 6)),
    Case(3, up=2, down=3, groups=2),
    Case(3, up=4, down=2, size=(3, 5)),
    Case(3, down=5, size=(12, 9)),
    Case(3, up=2, size=(1, 1)),
    Case(5, down=2, size=(1, 1)),
    Case(1, up=2),
    Case(3),
    Case(3, up=2, batch=0),
    Case(3, down=2, batch=0),
]
# Further groups, kernel sizes and factors. Batches are tested by MAIN_CASES, and here for a kernel
# size of 7, which MAIN_CASES lack.
MORE_CASES = [
    Case(5, up=2, groups=2, size=(5, 3), batch=1),
    Case(5, down=2, batch=1),
    Case(7, up=2, size=(4, 5)),
    Case(7, down=2),
    Case(5, up=3, size=(4, 5), batch=1),
    Case(5, down=3, size=(8, 7), batch=1),
    Case(5, up=3, down=2, size=(5, 6), batch=1),
]
SCALES = [
    Case(3, up=2, size=(3, 4)),
    Case(3, down=2, size=(5, 4)),
    Case(3, up=3, down=2, groups=2, size=(3, 4)),
]
FLOATS = ("float16", "bfloat16", "float32", "float64")
# Pairs with float32 in either position, and one pair that sums in float64. All other pairs take the
# same code paths, and are slow tests.
DTYPES = [
    pair if "float32" in pair or pair == ("bfloat16", "float64") else slow(*pair)
    for pair in itertools.product(FLOATS, repeat=2)
]

all_scales = pytest.mark.parametrize("case", SCALES, ids=str)
each_scale = pytest.mark.parametrize("case", [*SCALES[:2], slow(SCALES[2])], ids=str)


def random_finite(shape, dtype, seed=0):
    """Finite numbers of every magnitude, including subnormal numbers."""
    size = np.dtype(dtype).itemsize
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 ** (8 * size), shape, f"uint{8 * size}").view(dtype)
    values.flat[::7] = jnp.finfo(dtype).smallest_subnormal
    return np.where(np.isfinite(values), values, np.ones((), dtype))


def times_one(x):
    """The same numbers, with zeros for subnormal numbers if the backend flushes them."""
    return jax.jit(lambda x, one: (x * one).astype(x.dtype))(x, jnp.ones((1,) * x.ndim))


def one_hot_centre(case, dtype=np.float32):
    weights = np.zeros((*case.weights_shape[:3], case.groups, case.kernel_size**2), dtype)
    weights[..., case.kernel_size**2 // 2] = 1
    return weights.reshape(case.weights_shape)


def split_over_devices(array, devices):
    return array.reshape(devices, -1, *array.shape[1:])


class OperatorTests:
    """Tests of an implementation; a subclass names it, and restricts the tested calls."""

    implementation: str
    kernel_sizes = (1, 3, 5, 7)
    factors = (1, 2, 3, 4)
    group_channels = 2
    dtypes = FLOATS
    small_examples = 10
    examples = 30

    def supports(self, case):
        return True

    def tolerance(self, dtype):
        """Tolerance for one rounding to `dtype` of float32 or float64 sums of terms of order 1."""
        accumulator = jnp.promote_types(dtype, jnp.float32)
        return {
            "rtol": float(jnp.finfo(dtype).eps),
            "atol": 256 * float(jnp.finfo(accumulator).eps),
        }

    def require(self, *dtypes):
        for dtype in dtypes:
            if dtype not in self.dtypes:
                pytest.skip(f"{self.implementation} does not serve {dtype}")

    def operator(self, case):
        if not self.supports(case):
            pytest.skip(f"{self.implementation} does not serve {case}")
        return functools.partial(
            carafe_jax.reassemble, implementation=self.implementation, **case.options
        )

    def forward_and_gradients(self, case):
        """`(x, weights, dy) -> (y, dx, dw)`."""
        operator = self.operator(case)

        def run(x, weights, dy):
            y, vjp = jax.vjp(operator, x, weights)
            return y, *vjp(dy)

        return run

    def assert_equals_oracle(self, case, operands):
        """Compares the output and the gradients with the oracle, and returns them."""
        x, weights, dy = operands
        y, dx, dw = outputs = jax.jit(self.forward_and_gradients(case))(*operands)
        expected = (
            (y, oracle.reassemble(x, weights, **case.options)),
            (dx, oracle.input_gradient(weights, dy, case.size, **case.options)),
            (dw, oracle.weight_gradient(x, dy, **case.options)),
        )
        for actual, desired in expected:
            np.testing.assert_allclose(np.float64(actual), desired, **self.tolerance(actual.dtype))
        return outputs

    def assert_all_close(self, actual, desired, dtype=np.float32):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, **self.tolerance(dtype)), actual, desired
        )

    # Values and gradients

    @pytest.mark.parametrize("case", [*MAIN_CASES, *map(slow, MORE_CASES)], ids=str)
    def test_equals_the_oracle(self, case):
        self.assert_equals_oracle(case, case.random_operands())

    def test_equals_the_oracle_for_small_geometries(self):
        kernel_sizes = [k for k in self.kernel_sizes if k < 7]
        factors = [factor for factor in self.factors if factor < 4]
        self.assert_equals_oracle_for_any(kernel_sizes, factors, self.small_examples)

    @pytest.mark.slow
    def test_equals_the_oracle_for_any_geometry(self):
        self.assert_equals_oracle_for_any(self.kernel_sizes, self.factors, self.examples)

    def assert_equals_oracle_for_any(self, kernel_sizes, factors, examples):
        @settings(max_examples=examples)
        @given(cases(kernel_sizes, factors, self.group_channels))
        def check(case):
            assume(self.supports(case))
            self.assert_equals_oracle(case, case.random_operands())

        check()

    @each_scale
    def test_is_linear_in_the_map_and_in_the_weights(self, case):
        operator = jax.jit(self.operator(case))
        x, weights, _ = case.random_operands(seed=0)
        other_x, other_weights, _ = case.random_operands(seed=1)
        y = operator(x, weights)
        self.assert_all_close(
            operator(2 * x - other_x, weights), 2 * y - operator(other_x, weights)
        )
        self.assert_all_close(
            operator(x, 2 * weights - other_weights), 2 * y - operator(x, other_weights)
        )

    # Dtypes

    @pytest.mark.parametrize(("x_dtype", "weights_dtype"), DTYPES)
    def test_mixed_dtypes_round_once_to_the_dtype_of_each_operand(self, x_dtype, weights_dtype):
        self.require(x_dtype, weights_dtype)
        case = Case(3, up=2, size=(3, 4), batch=1)
        with jax.enable_x64(True):
            x, weights, dy = case.random_operands(np.float64)
            operands = jnp.asarray(x, x_dtype), jnp.asarray(weights, weights_dtype)
            operands = *operands, jnp.asarray(dy, x_dtype)
            outputs = self.assert_equals_oracle(case, operands)
            assert [out.dtype for out in outputs] == [x_dtype, x_dtype, weights_dtype]

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    @pytest.mark.parametrize("down", [1, 2])
    def test_low_precision_sums_are_exact_until_rounded_once(self, dtype, down):
        """Sums of integers are exact in float32 in any order, but not in `dtype`."""
        self.require(dtype)
        case = Case(3, up=3 - down, down=down, size=(4, 5), batch=1, group_channels=16)
        rng = np.random.default_rng(0)
        x, weights, dy = case.operands(lambda shape: rng.integers(-30, 30, shape))
        y, dx, dw = jax.jit(self.forward_and_gradients(case))(
            jnp.asarray(x, dtype), jnp.asarray(weights, dtype), jnp.asarray(dy, dtype)
        )
        expected = (
            (y, oracle.reassemble(x, weights, **case.options)),
            (dx, oracle.input_gradient(weights, dy, case.size, **case.options)),
            (dw, oracle.weight_gradient(x, dy, **case.options)),
        )
        for actual, exact in expected:
            np.testing.assert_array_equal(actual, exact.astype(dtype))

    # Exactness

    @pytest.mark.parametrize(
        ("up", "dtype"),
        [(2, "float16"), (2, "bfloat16"), (2, "float32"), (3, "float32"), (4, "bfloat16")],
    )
    def test_one_hot_centre_is_exactly_nearest_upsampling(self, up, dtype):
        self.require(dtype)
        case = Case(3, up=up, size=(3, 4), group_channels=8)
        x = random_finite(case.x_shape, jnp.dtype(dtype))
        y = jax.jit(self.operator(case))(x, one_hot_centre(case))
        np.testing.assert_array_equal(y, times_one(x).repeat(up, axis=1).repeat(up, axis=2))

    @pytest.mark.parametrize("down", [2, 3])
    def test_one_hot_centre_is_exactly_strided_slicing(self, down):
        case = Case(3, down=down, size=(7, 8), batch=1)
        x = random_finite(case.x_shape, np.float32)
        y = jax.jit(self.operator(case))(x, one_hot_centre(case))
        np.testing.assert_array_equal(y, times_one(x)[:, ::down, ::down])

    @pytest.mark.parametrize(
        "case",
        [
            Case(5, up=2, size=(4, 5), batch=1),
            Case(3, batch=1),
            Case(5, down=2, batch=1),
            Case(3, down=3, batch=1),
        ],
    )
    def test_uniform_weights_are_average_pooling(self, case):
        k, r, down = case.kernel_size, case.kernel_size // 2, case.down
        x, _, _ = case.random_operands()
        weights = np.full(case.weights_shape, 1 / k**2, np.float32)
        sums = jax.lax.reduce_window(
            x, 0.0, jax.lax.add, (1, k, k, 1), (1, down, down, 1), [(0, 0), (r, r), (r, r), (0, 0)]
        )
        pooled = np.repeat(np.repeat(sums / k**2, case.up, axis=1), case.up, axis=2)
        self.assert_all_close(jax.jit(self.operator(case))(x, weights), pooled)

    # NaN

    @all_scales
    def test_nan_in_the_map_reaches_only_outputs_that_read_it(self, case):
        x, weights, dy = case.random_operands()
        x[0, 1, 2, 0] = np.nan
        y, dx, dw = jax.jit(self.forward_and_gradients(case))(x, weights, dy)
        readers = np.zeros(dw.shape[1:3], bool)
        for row, column in np.ndindex(readers.shape):
            centre = (oracle.centre(i, case.up, case.down) for i in (row, column))
            readers[row, column] = all(
                abs(c - i) <= case.kernel_size // 2 for c, i in zip(centre, (1, 2), strict=True)
            )
        assert 0 < readers.sum() < readers.size
        np.testing.assert_array_equal(np.isnan(y[0, :, :, 0]), readers)
        assert np.isfinite(y[1:]).all()
        assert np.isfinite(y[..., 1:]).all()
        assert np.isfinite(dx).all()
        np.testing.assert_array_equal(
            np.isnan(dw), np.isnan(oracle.weight_gradient(x, dy, **case.options))
        )

    @all_scales
    def test_nan_in_a_cotangent_reaches_only_sources_that_its_output_reads(self, case):
        x, weights, dy = case.random_operands()
        target = 0, 1, 1, 0
        dy[target] = np.nan
        _, dx, dw = jax.jit(self.forward_and_gradients(case))(x, weights, dy)
        expected = oracle.input_gradient(weights, dy, case.size, **case.options)
        assert 0 < np.isnan(expected).sum() < expected.size
        np.testing.assert_array_equal(np.isnan(dx), np.isnan(expected))
        assert np.isfinite(np.delete(dw.reshape(-1, dw.shape[-1]), case.out_size[1] + 1, 0)).all()

    # Derivatives of higher order

    @pytest.mark.parametrize("case", [SCALES[1], slow(SCALES[0]), slow(SCALES[2])], ids=str)
    @pytest.mark.parametrize("order", [2, slow(3)])
    def test_higher_derivatives_equal_numerical_ones(self, case, order):
        self.require("float64")
        operator = self.operator(case)
        with jax.enable_x64(True):
            x, weights, dy = case.random_operands(np.float64)
            loss = jax.jit(lambda x, weights: jnp.sum(dy * jnp.sin(operator(x, weights))))
            check_grads(
                loss,
                (x, weights),
                order=order,
                modes=["rev"],
                rtol=10.0 ** (order - 6),
                atol=10.0 ** (order - 6),
            )

    @all_scales
    def test_gradient_penalty_equals_the_oracle(self, case):
        """With `y = Ax` and `u = A'y`, the gradient of `|u|^2 / 2` by `x` is `A'AA'Ax`.

        Its gradient by the weights is the sum of the weight gradients of `(u, y)` and `(x, Au)`.
        """
        operator = self.operator(case)
        x, weights, _ = case.random_operands()

        def penalty(x, weights):
            u = jax.grad(lambda x: jnp.sum(operator(x, weights) ** 2) / 2)(x)
            return jnp.sum(u**2) / 2

        def normal_equations(x):
            y = oracle.reassemble(x, weights, **case.options)
            return y, oracle.input_gradient(weights, y, case.size, **case.options)

        y, u = normal_equations(x)
        au, dx = normal_equations(u)
        dw = oracle.weight_gradient(u, y, **case.options)
        dw += oracle.weight_gradient(x, au, **case.options)
        actual = jax.jit(jax.grad(penalty, argnums=(0, 1)))(x, weights)
        for gradient, desired in zip(actual, (dx, dw), strict=True):
            np.testing.assert_allclose(gradient, desired, rtol=1e-5, atol=1e-6 * abs(desired).max())

    def test_third_derivative_equals_the_oracle(self):
        """`<y, y> * <y, d>` is cubic in `x`, so its third derivative along `v` is constant."""
        case = SCALES[0]
        operator = self.operator(case)
        x, weights, d = case.random_operands()
        v, _, _ = case.random_operands(seed=1)

        def cubic(x):
            y = operator(x, weights)
            return jnp.vdot(y, y) * jnp.vdot(y, d)

        def along(direction, function):
            return lambda x: jnp.vdot(jax.grad(function)(x), direction)

        third = jax.jit(along(v, along(v, along(v, cubic))))(x)
        av = oracle.reassemble(v, weights, **case.options)
        np.testing.assert_allclose(third, 6 * np.vdot(av, av) * np.vdot(av, d), rtol=1e-5)
