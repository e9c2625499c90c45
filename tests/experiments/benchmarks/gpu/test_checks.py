import json

import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.plan import Plan

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import checks, plan, reference
from experiments.benchmarks.gpu.broken import Broken
from experiments.benchmarks.gpu.check_cases import CHECKS, VMAPPED
from experiments.benchmarks.gpu.checks import (
    compiled,
    expected_results,
    random_operands,
    relative_error,
    run_check,
)
from tests.kernels import oracle

SMALL = (
    Case(2, 6, 7, 3, up=2),
    Case(1, 7, 5, 4, kernel_size=3, up=3, groups=2),
    Case(2, 7, 6, 4, down=2, groups=2),
    Case(1, 7, 8, 3, kernel_size=7, down=3),
    Case(1, 5, 4, 3, kernel_size=3, up=3, down=2),
    Case(1, 7, 5, 3, up=2, down=3),
    Case(1, 1, 2, 3, kernel_size=7, up=4),
)
TINY = Case(2, 4, 6, 8, kernel_size=3, up=2)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_reference_agrees_with_the_oracle(case):
    rng = np.random.default_rng(0)
    shapes = case.x_shape, case.weights_shape, case.y_shape, case.logits_shape
    x, weights, dy, logits = map(rng.standard_normal, shapes)
    size = case.size
    pairs = (
        (reference.forward(case, x, weights), oracle.reassemble(x, weights, **case.options)),
        (
            reference.input_gradient(case, weights, dy),
            oracle.input_gradient(weights, dy, size, **case.options),
        ),
        (
            reference.weight_gradient(case, x, dy),
            oracle.weight_gradient(x, dy, **case.options),
        ),
        (
            reference.softmax_weights(case, logits),
            oracle.kernels(logits, size, "softmax", **case.options),
        ),
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_gradient_of_softmax_agrees_with_finite_differences(case):
    rng = np.random.default_rng(0)
    shapes = case.logits_shape, case.weights_shape, case.logits_shape
    logits, dw, direction = map(rng.standard_normal, shapes)
    weights = reference.softmax_weights(case, logits)
    gradient = reference.softmax_gradient(case, weights, dw)
    ahead, behind = (
        (reference.softmax_weights(case, logits + step * direction) * dw).sum()
        for step in (1e-5, -1e-5)
    )
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("normalizer", [None, "softmax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_check_accepts_correct_results(dtype, normalizer):
    case = TINY.replace(dtype=dtype, normalizer=normalizer)
    operands = random_operands(case, seed=0)
    vmapped = compiled(case, "xla", vmapped=True) if dtype == "float32" else None
    program = compiled(case, "xla", vmapped=False)
    outcome = run_check(case, operands, expected_results(case, operands), program, vmapped)
    assert outcome.passed
    assert outcome.repeats
    assert (outcome.vmap_error is None) == (dtype != "float32")


@pytest.mark.parametrize("result", range(3))
@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_check_fails_for_wrong_results(result, value):
    operands = random_operands(TINY, seed=0)
    expected = expected_results(TINY, operands)
    expected[result].flat[-1] += value
    assert not run_check(TINY, operands, expected, compiled(TINY, "xla", vmapped=False)).passed


def test_a_check_fails_if_a_second_run_gives_other_bits(monkeypatch):
    operands = random_operands(TINY, seed=0)
    expected = expected_results(TINY, operands)
    program, shifts = compiled(TINY, "xla", vmapped=False), iter((0.0, 1e-6))

    def moving(*arrays):
        y, *gradients = program(*arrays)
        return y + next(shifts), *gradients

    outcome = run_check(TINY, operands, expected, moving)
    assert (outcome.repeats, outcome.passed) == (False, False)


def test_the_error_of_a_result_with_nan_is_nan():
    assert np.isnan(relative_error(np.array([1.0, np.nan]), np.array([1.0, 2.0])))
    assert relative_error(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == 0.5


def test_the_checks_cover_what_the_kernels_support():
    cases = CHECKS["real"]
    assert len(set(cases)) == 40
    assert {case.kernel_size for case in cases} == {3, 5, 7}
    assert {case.up for case in cases} == {1, 2, 3, 4}
    assert {case.down for case in cases} == {1, 2, 3}
    assert {case.groups for case in cases} == {1, 2}
    assert {case.channels for case in cases} == {3, 24, 100, 256}
    assert {case.dtype for case in cases} == {"float32", "bfloat16", "float16"}
    assert {case.operator for case in cases} == {"reassemble", "carafe"}
    assert len(set(VMAPPED) & set(cases)) == 4


SUPPORTED = {
    **{f"check {number}": case for number, case in enumerate(CHECKS["real"])},
    **{f"{name} {normalizer}": case.replace(normalizer=normalizer)
       for name, case in {**plan.MAIN, **plan.MORE, "smoke": plan.SMOKE_CASE}.items()
       for normalizer in plan.NORMALIZERS},
    **{f"{name} {number}": case for name, cases in plan.SMOKE_MORE.items()
       for number, case in enumerate(cases)},
}  # fmt: skip


@pytest.mark.parametrize("case", SUPPORTED.values(), ids=SUPPORTED)
def test_the_kernels_support_every_case(case):
    plan = Plan(
        Geometry(**case.options),
        case.size,
        jnp.dtype(case.dtype),
        jnp.dtype(case.kernels_dtype),
        case.normalizer,
        "mosaic_gpu",
    )
    assert mosaic_gpu.IMPLEMENTATION.supports(plan, case.x_shape) is None


def numbered(*cases):
    return [(seed, case.to_json()) for seed, case in enumerate(cases)]


def test_cases_are_checked_one_by_one(reporter, monkeypatch):
    monkeypatch.setattr(checks, "compiled", lambda case, _, vmapped: compiled(case, "xla", vmapped))
    checks.checks(reporter, numbered(*(TINY.replace(height=height) for height in (4, 2, 3))))
    assert [each["case"]["height"] for each in reporter.messages("measured")] == [4, 2, 3]
    assert all(each["passed"] for each in reporter.messages("measured"))
    assert [each["case"]["height"] for each in reporter.messages("running")] == [4, 2, 3]
    assert not reporter.messages("wrong")


def test_a_failed_check_is_reported(reporter, monkeypatch):
    def wrong(case, _, vmapped):
        return lambda *arrays: [2 * array for array in compiled(case, "xla", vmapped)(*arrays)]

    monkeypatch.setattr(checks, "compiled", wrong)
    checks.checks(reporter, numbered(TINY, TINY.replace(normalizer="softmax")))
    assert len(reporter.messages("wrong")) == 2
    assert "errors 1.0e+00, 1.0e+00, 1.0e+00" in reporter.messages("wrong")[0]


def test_the_children_share_the_checks(tmp_path):
    steps = [step for step in plan.Plan([1], tmp_path).right(Broken()) if "checks" in step.name]
    parts = [json.loads(step.command[-1])["options"]["cases"] for step in steps]
    assert len(parts) == plan.CHECK_CHILDREN
    found = {seed: Case.from_json(case) for part in parts for seed, case in part}
    assert sum(map(len, parts)) == len(found)
    assert [found[seed] for seed in range(len(found))] == [*CHECKS["real"]]


def test_moved_bytes_count_each_array_once():
    case = Case(2, 10, 10, 8, up=2, dtype="bfloat16")
    x, weights, logits, y = 2 * 100 * 8 * 2, 2 * 400 * 25 * 4, 2 * 100 * 100 * 2, 2 * 400 * 8 * 2
    assert case.moved == (x + weights + y, 2 * x + 2 * weights + y)
    fused = case.replace(normalizer="softmax")
    assert fused.moved == (x + logits + y, 2 * x + 2 * logits + y)


def test_a_case_survives_conversion_to_json():
    case = Case(2, 10, 11, 8, kernel_size=3, down=2, dtype="bfloat16", normalizer="softmax")
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case
    assert str(case) == "down 2, k=3, 2x10x11x8"
