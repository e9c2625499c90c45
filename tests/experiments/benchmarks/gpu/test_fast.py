"""Tests of the steps that check and time whole operators and layers, computed by XLA only."""

import functools
import json
import os
import subprocess
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from carafe_kernels import mosaic_gpu
from flax import linen as nn

from experiments.benchmarks.calls import operator
from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import child, fast, layers, plan, profilers, right, timing
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict, parse
from experiments.benchmarks.kernel_calls import KernelCall
from tests.experiments.benchmarks.gpu.conftest import RecordingReporter

pytestmark = pytest.mark.slow

TINY = Case(2, 4, 6, 8, kernel_size=3, up=2)


@pytest.fixture(autouse=True)
def briefly(monkeypatch):
    monkeypatch.setattr(timing, "BATCH_SECONDS", 1e-4)
    monkeypatch.setattr(timing, "BATCHES", 2)
    monkeypatch.setattr(timing, "WARM_UP_BATCHES", 1)
    monkeypatch.setattr(timing, "MAX_SETS", 4)
    monkeypatch.setattr(timing, "CALLS_TOGETHER", 2)


def runs(*passes):
    return [{"case": TINY.replace(normalizer=each).to_json(), "passes": passes}
            for each in plan.NORMALIZERS]  # fmt: skip


def test_operators_are_timed_pass_by_pass(reporter):
    fast.operators(reporter, runs("forward", "backward"), "xla", [])
    found = reporter.messages("measured")
    assert [(each["case"]["normalizer"], each["pass"]) for each in found] == [
        (None, "forward"), (None, "backward"), ("softmax", "forward"), ("softmax", "backward"),
    ]  # fmt: skip
    assert all(each["variant"] == "default" and each["microseconds"] > 0 for each in found)


def test_variants_are_compared_with_the_default(reporter, monkeypatch):
    """`bands` differs a little, those together are refused, the others equal the default."""

    def by_xla(case, implementation):
        del implementation
        function, settings = operator(case, "xla"), mosaic_gpu.current_settings()
        if settings.gradients == "together":
            raise NotImplementedError("float32 alone")
        if settings.forward == "bands":
            return lambda x, w: function(x, w) * 1.001
        return function

    monkeypatch.setattr(fast, "operator", by_xla)
    variants = [each for found in plan.VARIANTS.values() for each in found]
    fast.operators(reporter, runs("forward", "backward")[:1], "mosaic_gpu", variants)
    found = {(each["pass"], each["variant"]): each for each in reporter.messages("measured")}
    assert found["forward", "multiply_add"]["same_as"] == "default"
    assert found["backward", "apart"]["same_as"] == "default"
    assert "microseconds" not in found["backward", "apart"]
    assert found["backward", "together"]["refused"] == "NotImplementedError: float32 alone"
    assert found["forward", "bands"]["difference"] == pytest.approx(1e-3, rel=0.1)
    assert found["forward", "default"]["difference"] is None
    assert not reporter.messages("wrong")


def test_the_default_is_timed_if_a_variant_raises(reporter, monkeypatch):
    def fails(case, implementation):
        if mosaic_gpu.current_settings().forward == "bands":
            raise ValueError("no layout")
        return operator(case, "xla")

    monkeypatch.setattr(fast, "operator", fails)
    fast.operators(reporter, runs("forward")[:1], "mosaic_gpu", ["bands"])
    assert reporter.messages("wrong") == ["reassemble forward bands: ValueError: no layout"]
    assert reporter.messages("measured")[0]["microseconds"] > 0


def test_the_default_is_timed_if_a_variant_does_not_compile(reporter, monkeypatch):
    def fails(program):
        if "mul" in str(program.jaxpr):
            raise ValueError("spilled")
        return timing.compiled(program)

    def doubled(case, implementation):
        bands = mosaic_gpu.current_settings().forward == "bands"
        return (lambda x, w: 2 * x) if bands else (lambda x, w: x)

    monkeypatch.setattr(fast, "compiled", fails)
    monkeypatch.setattr(fast, "operator", doubled)
    fast.operators(reporter, runs("forward")[:1], "mosaic_gpu", ["bands"])
    assert reporter.messages("wrong") == ["reassemble forward bands: ValueError: spilled"]
    assert [each["variant"] for each in reporter.messages("measured")] == ["default"]


def test_a_default_that_is_refused_is_an_error(reporter):
    with pytest.raises(NotImplementedError, match="cannot run on cpu"):
        fast.operators(reporter, runs("forward"), "mosaic_gpu", [])


@pytest.mark.parametrize("case", [TINY, TINY.replace(up=1, down=2)], ids=str)
def test_all_layers_of_a_case_have_the_same_output_shape(case):
    x = jnp.ones(case.x_shape)
    for name, layer in layers.layers_of(case).items():
        variables = jax.eval_shape(functools.partial(layers.variables_of, layer, case))
        out = jax.eval_shape(layer.apply, variables, x)
        expected = case.logits_shape if name == "CARAFE's convolutions" else case.y_shape
        assert out.shape == expected, name


@pytest.mark.slow
@pytest.mark.parametrize("case", [TINY, TINY.replace(up=1, down=2)], ids=str)
def test_layers_are_timed(reporter, case):
    layers.layers(reporter, case.to_json(), leave_out_kernels=True)
    found = reporter.messages("measured")
    names = {each["layer"] for each in found}
    assert names == layers.layers_of(case).keys() - {plan.OUR_LAYER}
    assert len(found) == 2 * len(names)


def test_layers_are_timed_if_a_later_layer_fails(reporter, monkeypatch):
    class Fails(nn.Module):
        @nn.compact
        def __call__(self, x):
            raise ValueError("no room")

    case = TINY.replace(up=1)
    few = {"dense": nn.Dense(TINY.channels), "fails": Fails()}
    monkeypatch.setattr(layers, "layers_of", lambda _: few)
    with pytest.raises(ValueError, match="no room"):
        layers.layers(reporter, case.to_json(), leave_out_kernels=True)
    assert [(each["layer"], each["pass"]) for each in reporter.messages("measured")] == [
        ("dense", "forward"), ("dense", "both"),
    ]  # fmt: skip


def by_xla(factor):
    def wrong(case, implementation):
        function = operator(case, "xla")
        return function if implementation == "xla" else lambda *a: factor * function(*a)

    return wrong


@pytest.mark.parametrize(
    ("factor", "count"),
    [(1.0, 0), pytest.param(1.001, 2, marks=pytest.mark.slow), (float("nan"), 2)],
)
def test_results_are_compared_with_float64(reporter, monkeypatch, factor, count):
    monkeypatch.setattr(right, "operator", by_xla(factor))
    cases = [run["case"] for run in runs()]
    right.right(reporter, cases, seed=1)
    assert len(reporter.messages("wrong")) == count
    errors = [each["errors"] for each in reporter.messages("measured")]
    assert [set(each) for each in errors] == [{"y", "dx", "dw"}] * 2
    assert [each["passed"] for each in reporter.messages("measured")] == [count == 0] * 2
    if factor == 1.001:
        assert errors[0]["y"] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.slow
def test_the_reference_is_compared_with_numpy(reporter, monkeypatch):
    right.reference(reporter, "toy")
    assert reporter.messages("wrong") == []
    assert len(reporter.messages("measured")) == 4
    monkeypatch.setattr(
        right, "operator", lambda case, _: lambda *a: operator(case, "xla")(*a) * (1 + 1e-9)
    )
    right.reference(reporter, "toy")
    assert len(reporter.messages("wrong")) == 4


def test_programs_are_compiled_with_the_current_settings():
    with mosaic_gpu.using(max_slots=1):
        found = timing.compile_in_threads(
            {"slots": lambda: mosaic_gpu.current_settings().max_slots}
        )
    assert found == {"slots": 1}


def test_rotating_operands_exceed_the_cache(monkeypatch):
    monkeypatch.setattr(timing, "MAX_SETS", 16)
    assert timing.set_count(10**9) == 2
    assert timing.set_count(30 * 10**6) == 7
    assert timing.set_count(10**5) == 16


def test_chained_calls_have_separate_results():
    sets = [(jnp.full(3, float(number)),) for number in range(3)]
    results = jax.jit(timing.chained(lambda x: 2 * x))(*sets)
    np.testing.assert_array_equal(results, [[0.0] * 3, [2.0] * 3, [4.0] * 3])


@pytest.fixture
def run_child(tmp_path, monkeypatch):
    def run(function):
        monkeypatch.setattr(fast, "one_kernel", function)
        path = tmp_path / "child"
        reporter = RecordingReporter(path)
        spec = {"do": "one_kernel", "seconds": 9, "interpret": False, "options": {}}
        code = child.run(reporter, spec)
        reporter.close()
        return code, parse(path.read_bytes())[0]

    return run


def test_a_child_reports_how_its_function_ended(run_child):
    def fails(reporter):
        reporter.measured(error=float("nan"), errors=[float("inf"), 1.0])
        raise ValueError("no room\nanywhere")

    def refuses(reporter):
        raise NotImplementedError("another card")

    assert run_child(lambda reporter: "fine") == (0, [{"done": "fine"}])
    code, messages = run_child(fails)
    assert code == 1
    assert messages[0] == {"measured": {"error": "nan", "errors": ["inf", 1.0]}}
    assert messages[1] == {"error": "ValueError: no room"}

    def fails_silently(reporter):
        raise AssertionError

    def fails_late(reporter):
        raise RuntimeError("\n  \nno backend")

    assert run_child(fails_silently)[1] == [{"error": "AssertionError"}]
    assert run_child(fails_late)[1] == [{"error": "RuntimeError: no backend"}]
    assert run_child(refuses) == (0, [{"refused": "NotImplementedError: another card"}])


CSV = """==PROF== Connected to process 7
"ID","Kernel Name","gpu__time_duration.sum","launch__waves_per_multiprocessor","dram__bytes.x"
"","","us","",""
"0","carafe_forward_mosaic_gpu_kernel","41.5","1.2","7"
"""
FINE = Verdict(Outcome.OK, "fine", ({"a": 1},))


def test_counters_are_read():
    found = profilers.with_counters(FINE, CSV)
    counters = {"gpu__time_duration.sum [us]": "41.5", "launch__waves_per_multiprocessor": "1.2"}
    assert found.outcome is Outcome.OK
    assert found.measured[1] == {
        "kernel": "carafe_forward_mosaic_gpu_kernel", "counters": counters
    }  # fmt: skip
    without = profilers.with_counters(FINE, "==ERROR== no permission\n")
    assert without.outcome is Outcome.ERROR
    assert "no permission" in without.detail


@pytest.mark.parametrize(("count", "outcome"), [(0, Outcome.OK), (3, Outcome.WRONG)])
def test_memory_errors_are_read(count, outcome):
    report = f"========= Invalid __global__ read\n========= ERROR SUMMARY: {count} errors\n"
    found = profilers.with_memory_errors(FINE, report)
    assert found.outcome is outcome
    assert found.measured[1] == {"memory_errors": count}
    assert json.dumps(found.measured)


@pytest.mark.parametrize(
    "report", ["", "========= Device not supported\n========= ERROR SUMMARY: 0 errors\n"]
)
def test_a_memory_check_that_did_not_run_is_an_error(report):
    found = profilers.with_memory_errors(FINE, report)
    assert (found.outcome, found.measured) == (Outcome.ERROR, FINE.measured)
    assert found.detail.startswith("no report: ")
    cut = Verdict(Outcome.HANG, "did not end")
    assert profilers.with_memory_errors(cut, report) == cut


def test_the_memory_check_allocates_arrays_separately(tmp_path, monkeypatch):
    """A fake checker prints its environment, which its child inherits."""
    tool = tmp_path / "compute-sanitizer"
    tool.write_text("#!/bin/sh\necho allocator $XLA_PYTHON_CLIENT_ALLOCATOR with $*\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    step = profilers.memory_check("why", "memcheck", ["python3", "-c", "..."], 9, tmp_path)
    said = subprocess.run(step.command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("allocator platform with --tool memcheck ")
    assert said.endswith(" python3 -c ...\n")


def test_one_process_at_a_time_has_the_device(tmp_path):
    order = []
    first, second = (
        RecordingReporter(tmp_path / name, tmp_path / "lock") for name in ("first", "second")
    )

    def wait():
        with second.device_alone():
            order.append("second")

    with first.device_alone():
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
    first.close()
    second.close()


@pytest.mark.parametrize("settings", [{}, {"weight_gradient": "products"}])
def test_one_kernel_runs_with_settings(reporter, monkeypatch, settings):
    used = []

    def calls(case):
        used.append(mosaic_gpu.current_settings().weight_gradient)
        return {"dw": KernelCall(lambda x, dy: x.sum() + dy.sum(), ("x", "dy"))}

    monkeypatch.setattr(fast, "kernel_calls", calls)
    fast.one_kernel(reporter, plan.TOY["toy"].to_json(), "dw", settings)
    assert used == [settings.get("weight_gradient")]
