import jax
import numpy as np
import pytest

from carafe_jax import reassemble
from experiments.benchmarks.cases import Case
from experiments.benchmarks.formulations import suites
from experiments.benchmarks.operator import CASES, arrays, label, through_patches, with_gradient
from experiments.benchmarks.timing import compare


@pytest.mark.parametrize("case", [Case(1, 5, 5, 3, up=2), Case(1, 7, 7, 3, down=2)])
def test_the_baseline_computes_the_same(case):
    x, weights, cotangent = arrays(case)

    def ours(x, weights):
        return reassemble(x, weights, kernel_size=5, up=case.up, down=case.down)

    def patches(x, weights):
        return through_patches(x, weights, case)

    found, expected = (with_gradient(f)(x, weights, cotangent) for f in (ours, patches))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_rows_are_labelled():
    assert label(CASES[0]) == "up 2, k=5, 1x50x50x256, float32"
    assert len({*map(label, CASES)}) == len(CASES)


@pytest.mark.slow
def test_all_formulations_compute_the_same():
    for (contraction, case), functions in suites().items():
        x, weights, y = arrays(case)
        operands = {"forward": (x, weights), "input gradient": (weights, y),
                    "weight gradient": (x, y)}[contraction]  # fmt: skip
        first, *others = (jax.jit(function)(*operands) for function in functions.values())
        for other in others:
            np.testing.assert_allclose(other, first, atol=2e-4)


def test_comparison_reports_every_function():
    timings = compare({"a": lambda x: x + 1, "b": lambda x: x @ x}, (np.eye(8),), rounds=1, calls=1)
    assert set(timings) == {"a", "b"}
    assert all(t.milliseconds > 0 and t.temporary_bytes >= 0 for t in timings.values())
