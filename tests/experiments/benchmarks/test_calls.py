import jax
import jax.numpy as jnp
import numpy as np
import pytest

import carafe_jax
from experiments.benchmarks.calls import arrays, contractions, operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.passes import FORWARD
from tests.experiments.benchmarks.passes_oracle import results_of


@pytest.mark.parametrize(
    "case", [Case(2, 5, 4, 3, up=2), Case(1, 7, 5, 3, kernel_size=3, down=2)], ids=str
)
def test_every_contraction_agrees_with_the_oracle(case):
    operands = arrays(case)
    found = [run(*operands) for run in contractions(operator(case, None)).values()]
    expected = results_of(case, *operands)["with gradient"]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", ["input gradient", "weight gradient"])
def test_a_single_gradient_does_not_compute_the_output(name):
    case = Case(1, 8, 8, 16, up=2)
    operands = arrays(case)

    def flops(run):
        return jax.jit(run).lower(*operands).compile().cost_analysis()["flops"]

    runs = contractions(operator(case, None))
    assert flops(runs[name]) < 1.5 * flops(runs[FORWARD])


@pytest.mark.parametrize(
    "case",
    [
        Case(2, 5, 4, 3, up=2, dtype="bfloat16"),
        Case(1, 4, 4, 2, down=2, dtype="bfloat16", weights_dtype="bfloat16"),
    ],
    ids=lambda case: case.label,
)
def test_arrays_have_the_shapes_and_dtypes_of_the_case(case):
    found = arrays(case)
    for array, operand in zip(found, case.operands.values(), strict=True):
        assert (array.shape, array.dtype) == (operand.shape, operand.dtype)
    x, weights, y = found
    assert case.moved.forward == sum(array.nbytes for array in (x, weights, y))


def test_weights_have_the_dtype_that_the_library_returns():
    case = Case(1, 4, 4, 2, up=2, dtype="bfloat16")
    logits = jnp.zeros(case.logits_shape, case.dtype)
    weights = carafe_jax.reassembly_kernels(jnp.zeros(case.x_shape, case.dtype), logits, up=2)
    assert weights.dtype == case.operands["kernels"].dtype
