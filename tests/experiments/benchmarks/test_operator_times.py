import jax
import numpy as np
import pytest

from experiments.benchmarks.calls import contractions, operator, passes
from experiments.benchmarks.cases import Case
from experiments.benchmarks.formulations import suites
from experiments.benchmarks.operator_times import PATCHES, array_bytes, arrays, formulations
from experiments.benchmarks.passes import FORWARD
from tests.experiments.benchmarks.passes_oracle import results_of

SMALL = [Case(2, 5, 4, 3, up=2), Case(1, 7, 5, 3, kernel_size=3, down=2)]

each_case = pytest.mark.parametrize("case", SMALL, ids=str)


@each_case
@pytest.mark.parametrize("name", formulations(SMALL[0]))
def test_every_pass_of_a_formulation_is_right(name, case):
    operands = arrays(case)
    found = {
        each: jax.tree.leaves(run(*operands))
        for each, run in passes(formulations(case)[name]).items()
    }
    expected = results_of(case, *operands)
    assert found.keys() == expected.keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


@each_case
def test_every_contraction_is_right(case):
    operands = arrays(case)
    found = [run(*operands) for run in contractions(operator(case, None)).values()]
    expected = results_of(case, *operands)["with gradient"]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize("name", ["input gradient", "weight gradient"])
def test_a_gradient_alone_does_not_compute_the_output(name):
    case = Case(1, 8, 8, 16, up=2)
    operands = arrays(case)

    def flops(run):
        return jax.jit(run).lower(*operands).compile().cost_analysis()["flops"]

    runs = contractions(operator(case, None))
    assert flops(runs[name]) < 1.5 * flops(runs[FORWARD])


def test_bytes_are_those_of_the_arrays():
    case = Case(2, 5, 4, 3, up=2, dtype="bfloat16")
    assert array_bytes(case) == sum(array.nbytes for array in arrays(case))


def test_the_usual_formulation_gathers_patches():
    case = SMALL[0]
    text = jax.jit(formulations(case)[PATCHES]).lower(*arrays(case)[:2]).as_text()
    assert f"tensor<{case.batch}x{case.height}x{case.width}x{25 * case.channels}xf32>" in text


@pytest.mark.slow
def test_all_formulations_compute_the_same():
    for (contraction, case), functions in suites().items():
        x, weights, y = arrays(case)
        operands = {"forward": (x, weights), "input gradient": (weights, y),
                    "weight gradient": (x, y)}[contraction]  # fmt: skip
        first, *others = (jax.jit(function)(*operands) for function in functions.values())
        for other in others:
            np.testing.assert_allclose(other, first, atol=2e-4)
