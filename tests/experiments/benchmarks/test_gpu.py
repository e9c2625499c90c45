import dataclasses
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry

from carafe_jax.linen import CARAFE, KernelPredictor
from experiments.benchmarks.gpu import __main__ as gpu
from experiments.benchmarks.gpu import reference, timing
from experiments.benchmarks.gpu import report as tables
from experiments.benchmarks.gpu.checks import (
    CHECKS,
    Check,
    expected_results,
    kernel_dtype,
    operator,
    random_operands,
    relative_error,
    run_check,
)
from experiments.benchmarks.gpu.reference import Case
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
    size = case.height, case.width
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
def test_the_gradient_of_softmax_agrees_with_differences(case):
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


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_check_passes_what_is_right(dtype, fused):
    check = Check(dataclasses.replace(TINY, dtype=dtype), fused, vmapped=dtype == "float32")
    operands = random_operands(check, seed=0)
    outcome = run_check(check, operands, expected_results(check, operands), "xla")
    assert outcome.passed
    assert outcome.repeats
    assert (outcome.vmap_error is None) == (dtype != "float32")


@pytest.mark.parametrize("result", range(3))
@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_check_fails_what_is_wrong(result, value):
    check = Check(TINY)
    operands = random_operands(check, seed=0)
    expected = expected_results(check, operands)
    expected[result].flat[-1] += value
    assert not run_check(check, operands, expected, "xla").passed


def test_no_error_hides_behind_nan():
    assert np.isnan(relative_error(np.array([1.0, np.nan]), np.array([1.0, 2.0])))
    assert relative_error(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == 0.5


def test_the_checks_cover_what_the_kernels_serve():
    cases = [check.case for check in CHECKS]
    assert {case.kernel_size for case in cases} == {3, 5, 7}
    assert {case.up for case in cases} == {1, 2, 3, 4}
    assert {case.down for case in cases} == {1, 2, 3}
    assert {case.groups for case in cases} == {1, 2}
    assert {case.channels for case in cases} == {3, 24, 100, 256}
    assert {case.dtype for case in cases} == {"float32", "bfloat16", "float16"}
    assert sum(check.vmapped for check in CHECKS) == 4


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_the_kernels_serve_every_check(check):
    case, dtypes = check.case, (check.case.dtype, kernel_dtype(check.case, check.fused))
    dtype, weights_dtype = map(jnp.dtype, dtypes)
    normalizer = "softmax" if check.fused else None
    reason = mosaic_gpu.supports(
        Geometry(**case.options),
        dtype,
        case.x_shape,
        weights_dtype=weights_dtype,
        normalizer=normalizer,
    )
    assert reason is None


def test_bytes_that_move_once():
    case = Case(2, 10, 10, 8, up=2, dtype="bfloat16")
    x, weights, logits, y = 2 * 100 * 8 * 2, 2 * 400 * 25 * 4, 2 * 100 * 100 * 2, 2 * 400 * 8 * 2
    plain, fused = (gpu.moved_bytes(case, fused) for fused in (False, True))
    assert plain == (x + weights + y, 2 * x + 2 * weights + y)
    assert fused == (x + logits + y, 2 * x + 2 * logits + y)


def test_tables():
    columns = [tables.Column("shape", number=False), tables.Column("us")]
    assert tables.table_head(columns) == "| shape | us |\n|---|---:|"
    assert tables.table_row(["a|b", tables.microseconds(12.34)]) == "| a/b | 12.3 |"
    assert list(map(tables.microseconds, (1.234, 123.4, None))) == ["1.23", "123", "-"]
    assert tables.ratio(3.0, 2.0) == "1.50"
    assert tables.ratio(None, 2.0) == tables.ratio(3.0, None) == "-"
    assert tables.total(1.0, 2.0) == 3.0
    assert tables.total(1.0, None) is None
    assert tables.one_line(ValueError("first\nsecond")) == "ValueError: first"


def test_operands_rotate_through_more_than_the_cache():
    assert timing.set_count(10**9) == 2
    assert timing.set_count(30 * 10**6) == 7
    assert timing.set_count(10**5) == 16


def test_calls_in_one_program_stay_apart():
    sets = [(jnp.full(3, float(number)),) for number in range(3)]
    results = jax.jit(timing.chained(lambda x: 2 * x))(*sets)
    np.testing.assert_array_equal(results, [[0.0] * 3, [2.0] * 3, [4.0] * 3])


def test_without_a_gpu_it_says_so(capsys):
    assert gpu.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nothing to measure: this device is a CPU, and they need an NVIDIA GPU")
    assert err.count("\n") == 1


@pytest.fixture
def in_small(monkeypatch):
    """Has every section run here: tiny cases, and XLA in place of the kernels."""

    def by_xla(case, fused, implementation):
        del implementation
        return operator(case, fused, "xla")

    monkeypatch.setattr("experiments.benchmarks.gpu.checks.operator", by_xla)
    monkeypatch.setattr(gpu, "operator", by_xla)

    def layer_by_xla(implementation, **options):
        del implementation
        return CARAFE(**options, kernel_size=3, implementation="xla")

    monkeypatch.setattr(gpu, "CARAFE", layer_by_xla)
    monkeypatch.setattr(gpu, "KernelPredictor", functools.partial(KernelPredictor, kernel_size=3))
    monkeypatch.setattr(gpu, "CHECKS", (Check(TINY), Check(TINY, fused=True, vmapped=True)))
    monkeypatch.setattr(gpu, "OPERATOR_CASES", (dataclasses.replace(TINY, up=1),))
    monkeypatch.setattr(gpu, "LAYER_CASES", (dataclasses.replace(TINY, up=1, down=2),))
    monkeypatch.setattr(gpu, "CALLS_TOGETHER", 2)
    monkeypatch.setattr(gpu, "copy_bandwidth", lambda: 1e12)
    monkeypatch.setattr(gpu, "dispatch_microseconds", lambda: 1.0)
    monkeypatch.setattr(timing, "BATCH_SECONDS", 1e-3)
    monkeypatch.setattr(timing, "MAX_SETS", 4)


def run_in_small(path=None, budget=300):
    report = tables.Report(path)
    clock = gpu.Clock(time.monotonic(), budget)
    gpu.run_sections(report, clock, gpu.SECTIONS, torch_rows=0)
    return report


@pytest.mark.slow
@pytest.mark.usefixtures("in_small")
def test_every_section_prints_and_keeps_its_rows(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    report = run_in_small(path)
    assert report.failures == report.not_run == []
    tables = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 2x4x6x8")]
    assert [line.endswith("PASS |") for line in tables] == [True] * 2 + [False] * 5
    record = json.loads(path.read_text())
    assert [len(record[name]) for name in ("checks", "operators", "layers")] == [2, 2, 2]


@pytest.mark.usefixtures("in_small")
def test_what_there_is_no_time_for_is_listed():
    report = run_in_small(budget=0)
    last_words = [line.split()[-1] for line in report.not_run]
    assert last_words == ["reassemble", "carafe", "layer", "operators"]


@pytest.mark.usefixtures("in_small")
def test_a_failure_stops_no_other_row(monkeypatch, tmp_path, capsys):
    def fails(*_):
        raise ValueError("no room")

    monkeypatch.setattr("experiments.benchmarks.gpu.checks.operator", fails)
    monkeypatch.setattr(gpu, "operator", lambda *_: fails)
    monkeypatch.setattr(gpu, "LAYER_CASES", ())
    report = run_in_small(tmp_path / "numbers.json")
    out, err = capsys.readouterr()
    assert out.count("FAIL ValueError: no room") == 2
    assert len(report.failures) == err.count("ValueError: no room") == 2 + 8
