import functools

import jax
import numpy as np
import pytest

from experiments.benchmarks.calls import operator, with_gradients
from experiments.benchmarks.cases import Case
from experiments.benchmarks.formulations import suites
from experiments.benchmarks.operator import CASES, arrays, label, through_patches
from experiments.benchmarks.timing import compare


@pytest.mark.parametrize("case", [Case(1, 5, 5, 3, up=2), Case(1, 7, 7, 3, down=2)])
def test_the_baseline_computes_the_same(case):
    operands = arrays(case)
    patches = functools.partial(through_patches, case=case)
    found, expected = (with_gradients(f)(*operands) for f in (operator(case, None), patches))
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
