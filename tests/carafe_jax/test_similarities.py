"""Inner products of queries with the pixels that their kernels read."""

import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import carafe_jax
from tests.kernels import oracle
from tests.kernels.cases import Case
from tests.kernels.errors import naming
from tests.kernels.sharding import each_axis_type, over_the_batch
from tests.slow import slow

CASES = [
    Case(5, up=2, size=(3, 4)),
    Case(3, down=2, groups=2, size=(5, 4)),
    slow(Case(3, up=3, down=2, size=(5, 3))),
]
SIZE = (8, 4)
SCALES = (Fraction(8, 5), Fraction(4, 6))


def operands(case, dtype=np.float32):
    x, _, queries = case.random_operands()
    return jnp.asarray(x, dtype), jnp.asarray(queries, dtype)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_they_are_the_products_of_the_definition(case):
    x, queries = operands(case)
    found = carafe_jax.similarities(x, queries, **case.options)
    expected = oracle.weight_gradient(x, queries, **case.options)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_they_are_the_products_at_any_size():
    case = Case(3, groups=2, size=(5, 6))
    x, queries = operands(case)[0], operands(Case(3, groups=2, size=SIZE))[1]
    found = carafe_jax.similarities(x, queries, kernel_size=3, groups=2, size=SIZE)
    expected = oracle.weight_gradient(x, queries, kernel_size=3, groups=2, scales=SCALES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", slow("float16"), slow("float64")])
def test_they_are_summed_and_returned_in_a_wide_dtype(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, queries = operands(CASES[0], dtype)
        wide = "float64" if dtype == "float64" else "float32"
        found = carafe_jax.similarities(x, queries, **CASES[0].options)
        assert found.dtype == wide
        expected = carafe_jax.similarities(x.astype(wide), queries.astype(wide), **CASES[0].options)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        x, queries = operands(Case(3, up=2, size=(2, 3), batch=1), np.float64)

        def loss(x, queries):
            products = carafe_jax.similarities(x, queries, kernel_size=3, up=2)
            return jnp.sum(jnp.sin(products))

        check_grads(jax.jit(loss), (x, queries), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@each_axis_type
def test_a_sharded_batch_and_vmap_compute_what_a_batch_does(axis_type):
    case = Case(3, up=2, size=(3, 4), batch=4)
    x, queries = operands(case)
    run = functools.partial(carafe_jax.similarities, **case.options)
    expected = run(x, queries)
    np.testing.assert_allclose(jax.vmap(run)(x, queries), expected, rtol=1e-5, atol=1e-5)
    sharding = over_the_batch(axis_type)
    with jax.set_mesh(sharding.mesh):
        found = jax.jit(run)(*jax.device_put((x, queries), sharding))
    assert found.sharding.is_equivalent_to(sharding, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "dtype", "names"),
    [
        ((1, 6, 8, 3), "float32", ("queries", "(1, 6, 8, 2)", "(1, 6, 8, 3)")),
        ((1, 5, 8, 2), "float32", ("queries", "(1, 6, 8, 2)", "(1, 5, 8, 2)")),
        ((1, 6, 8, 2), "bfloat16", ("queries", "float32", "bfloat16")),
    ],
)
def test_queries_that_do_not_fit_are_refused(shape, dtype, names):
    x = jnp.zeros((1, 3, 4, 2))
    with pytest.raises(ValueError, match=naming(*names)):
        carafe_jax.similarities(x, jnp.zeros(shape, dtype), kernel_size=3, up=2)
