import json
import signal
import subprocess
import sys
import time

import pytest

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import bringup, plan, profilers
from experiments.benchmarks.gpu.broken import Broken
from experiments.benchmarks.gpu.children import Finished
from experiments.benchmarks.gpu.kernels import PASSES
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict
from experiments.benchmarks.gpu.record import Record
from experiments.benchmarks.gpu.switches import SWITCHES
from tests.experiments.benchmarks.gpu.fake_children import is_alive, results, run_with
from tests.experiments.benchmarks.gpu.programs import ENVIRONMENT, ROOT, python
from tests.slow import slow

pytestmark = pytest.mark.slow

FOLDER = ROOT / "experiments" / "benchmarks" / "gpu"
# Packages that may be missing on a machine with JAX and Flax. Flax installs optax and rich.
MISSING = (
    "tyro",
    "grain",
    "tensorflow_datasets",
    "tensorflow",
    "matplotlib",
    "PIL",
    "gradio",
    "orbax",
)


def test_the_parent_never_imports_jax():
    program = """
import sys
import experiments.benchmarks.gpu.bringup, experiments.benchmarks.gpu.tables
print(*sorted({"jax", "jaxlib", "flax", "numpy", "torch", "carafe_jax"} & set(sys.modules)))
"""
    completed = python(program)
    assert (completed.returncode, completed.stdout.split()) == (0, []), completed.stderr


def test_children_import_no_optional_packages():
    names = [f"experiments.benchmarks.gpu.{path.stem}" for path in FOLDER.glob("[a-z]*.py")]
    program = f"""
import importlib, importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
for name in {names}:
    importlib.import_module(name)
"""
    completed = python(program)
    assert completed.returncode == 0, completed.stderr


def test_a_run_without_failures(tmp_path, capsys):
    assert run_with({}, tmp_path, "--seed", "7") == 0
    found = results(tmp_path)
    assert (found["ended"], found["seed"], found["conclusions"]) == ("complete", 7, [])
    phases = [step["phase"] for step in found["steps"]]
    assert [*dict.fromkeys(phases)] == ["card", "smoke", "right", "fast"]
    assert {step["outcome"] for step in found["steps"]} == {"ok"}
    assert phases.count("smoke") == 14 + len(plan.SMOKED_VARIANTS)
    lines = capsys.readouterr().out.splitlines()
    assert sum(" ok " in line for line in lines) >= len(phases)
    fast = [step["name"] for step in found["steps"] if step["phase"] == "fast"]
    main = [f"{name} {dtype}, {by}" for name in plan.MAIN for dtype in plan.DTYPES
            for by in ("ours", "xla")]  # fmt: skip
    assert {*main} <= {*fast}
    planned = [step.name for step in plan.Plan([7], tmp_path).fast(Broken())]
    assert planned[: len(main)] == main
    log = (tmp_path / "log.txt").read_text()
    assert all(line in log for line in lines)


@pytest.mark.usefixtures("few_steps")
def test_missing_tools_are_not_a_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_with({}, tmp_path / "out") == 0
    assert capsys.readouterr().out.count("ncu is not installed") == len(plan.COUNTED)
    not_run = results(tmp_path / "out")["not_run"]
    assert sum(line.startswith("why: ") for line in not_run) == len(plan.COUNTED) + 1


def test_counters_are_read_with_the_settings_of_a_variant_unless_it_broke(tmp_path, monkeypatch):
    monkeypatch.setattr(profilers.shutil, "which", lambda name: name)

    def counted(broken):
        steps = [*plan.Plan([7], tmp_path).why(broken)]
        assert steps.pop().name.startswith("memcheck")
        return {step.name: json.loads(step.command[-1])["options"]["settings"] for step in steps}

    found = counted(Broken())
    assert len(found) == len(plan.COUNTED)
    assert found["ncu reassemble dx bfloat16"] == {}
    assert found["ncu reassemble dx bfloat16 dx_bands"]["input_gradient"] == "bands"
    assert found["ncu reassemble dw bfloat16 dw_products"]["weight_gradient"] == "products"
    broken = Broken()
    broken.variants.add("dx_bands")
    assert {*found} - {*counted(broken)} == {"ncu reassemble dx bfloat16 dx_bands"}


@pytest.mark.usefixtures("few_steps")
def test_a_failing_kernel_runs_again_with_switches(tmp_path, capsys):
    programs = {"dx": "wrong", "dx max_slots": "ok", "dx one_step": "refused"}
    assert run_with(programs, tmp_path) == 1
    found = results(tmp_path)
    switched = [step for step in found["steps"] if step["phase"] == "switches"]
    assert len(switched) == 2 * len(SWITCHES)
    right = {step["about"]["switch"] for step in switched if step["outcome"] == "ok"}
    assert right == {"one slot"}
    # Conclusions are in the order in which the failed steps ended.
    carafe, reassemble = sorted(found["conclusions"])
    expected = "dx float32: right with one slot: copying"
    assert carafe.startswith(f"carafe {expected}")
    assert reassemble.startswith(f"reassemble {expected}")
    assert reassemble.endswith("(does not apply: one step)")
    assert capsys.readouterr().out.count("CONCLUSION") == 2


def options_of(planned, do):
    """Options of the planned steps that run a function."""
    return [options for each, options in planned if each == do]


def timed(planned):
    """Cases and passes of our kernels that are timed."""
    return {
        (Case.from_json(run["case"]), name)
        for options in options_of(planned, "operators") if options["implementation"] == "mosaic_gpu"
        for run in options["runs"] for name in run["passes"]
    }  # fmt: skip


@pytest.mark.usefixtures("few_steps")
def test_kernels_that_crash_do_not_run_again(tmp_path):
    planned = []
    programs = {"dlogits": "segfault", "bands": "abort", "dw": "wrong"}
    assert run_with(programs, tmp_path, planned=planned) == 1
    up = plan.MAIN["up 2"]
    # A kernel that is only wrong is timed, and XLA's times need no kernel.
    assert timed(planned) == {
        (up, "forward"), (up, "backward"), (up.replace(normalizer="softmax"), "forward"),
    }  # fmt: skip
    (xla,) = [each for each in options_of(planned, "operators") if each["implementation"] == "xla"]
    assert [run["passes"] for run in xla["runs"]] == [["forward", "backward"]] * 2
    # In float64, output and gradients are one program.
    (right,) = options_of(planned, "right")
    assert right["cases"] == [up.to_json()]
    assert {each["normalizer"] for options in options_of(planned, "checks")
            for _, each in options["cases"] if each["dtype"] == "float32"} == {None}  # fmt: skip
    assert [each["leave_out_kernels"] for each in options_of(planned, "layers")] == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_kernel_that_is_slow_to_compile_runs_again(tmp_path):
    planned = []
    code = run_with({"dx": "slow"}, tmp_path, seconds={"dx": 2}, planned=planned)
    assert code == 1  # it is not known whether the kernel is right
    up = plan.MAIN["up 2"]
    assert {case for case, _ in timed(planned)} == {up, up.replace(normalizer="softmax")}
    found = results(tmp_path)
    assert not [step for step in found["steps"] if step["phase"] == "switches"]
    slow = [step["name"] for step in found["steps"] if step["outcome"] == "slow"]
    assert sorted(slow) == ["carafe dx float32"] * 2 + ["reassemble dx float32"] * 2


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("do", [slow("right"), "smoke"])
def test_a_case_that_hangs_is_not_timed(tmp_path, monkeypatch, do):
    """The child reports the last of its cases, which takes logits."""
    up = plan.MAIN["up 2"]
    monkeypatch.setattr(plan, "SMOKE_MORE", {"all": (up, up.replace(normalizer="softmax"))})
    monkeypatch.setattr(plan, "SMOKED_VARIANTS", ())
    planned = []
    programs = {do: "hang in a case"} | {
        kernel: "ok" for kernels in PASSES["carafe"].values() for kernel in (*kernels, "dw")
    }
    run_with(programs, tmp_path, seconds={do: 3}, planned=planned)
    assert {case for case, _ in timed(planned)} == {up}


def a_run(tmp_path, monkeypatch, outcomes):
    """Runs all phases; returns phase and name of the steps, in the order in which they ran.

    Args:
        outcomes: outcome of the first run of each step, by phase; all other runs succeed.
    """
    names, tried = [], set()

    def run_steps(steps, **_):
        for step in steps:
            names.append((step.phase, step.name))
            first = names[-1] not in tried
            tried.add(names[-1])
            outcome = outcomes.get(step.phase, Outcome.OK) if first else Outcome.OK
            yield Finished(step, Verdict(outcome, ""))

    monkeypatch.setattr(bringup, "run_steps", run_steps)
    record = Record(tmp_path)
    bringup.Run(record, plan.Plan([1], tmp_path), 515).all()
    record.close("complete")
    return names


@pytest.mark.parametrize("outcome", [Outcome.NOT_RUN, Outcome.NO_TIME, Outcome.SLOW])
@pytest.mark.parametrize("phase", [plan.SMOKE, plan.RIGHT, plan.FAST])
def test_unfinished_steps_run_again_at_the_end(tmp_path, monkeypatch, phase, outcome):
    names = a_run(tmp_path, monkeypatch, {phase: outcome})
    waited = [name for name in dict.fromkeys(names) if name[0] == phase]
    assert names[-len(waited) :] == waited
    assert len(names) == len(set(names)) + len(waited)


def test_slow_steps_run_again_last(tmp_path, monkeypatch):
    slow_first = {plan.SMOKE: Outcome.SLOW, plan.RIGHT: Outcome.NOT_RUN}
    names = a_run(tmp_path, monkeypatch, slow_first)
    again = [phase for number, (phase, name) in enumerate(names) if (phase, name) in names[:number]]
    assert [*dict.fromkeys(again)] == [plan.RIGHT, plan.SMOKE]


@pytest.mark.parametrize(("phase", "code"), [("smoke", 1), ("right", 1), ("fast", 0)])
@pytest.mark.usefixtures("few_steps")
def test_the_exit_code_is_1_if_a_check_did_not_run(tmp_path, monkeypatch, phase, code):
    def run_steps(steps, **_):
        for step in steps:
            outcome = Outcome.NOT_RUN if step.phase == phase else Outcome.OK
            yield Finished(step, Verdict(outcome, ""))

    monkeypatch.setattr(bringup, "run_steps", run_steps)
    assert bringup.main(["--out", str(tmp_path)]) == code


def start(tmp_path, programs, steps):
    """Starts a run in a separate process, and waits until some of its steps have ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.benchmarks.gpu.fake_children",
         json.dumps(programs), str(tmp_path)],
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (tmp_path / "results.json").exists() and len(results(tmp_path)["steps"]) >= steps:
            return process
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def test_results_are_kept_after_sigterm(tmp_path):
    process = start(tmp_path, {"dx": "hang with a child"}, steps=6)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    found = results(tmp_path)
    assert found["ended"] == "SIGTERM"
    assert found["steps"][0]["name"] == "card and versions"
    assert "ended: SIGTERM" in out
    assert all(line in (tmp_path / "log.txt").read_text() for line in out.splitlines())


def test_results_are_kept_after_sigkill(tmp_path):
    process = start(tmp_path, {"dx": "hang"}, steps=6)
    process.kill()
    process.communicate(timeout=60)
    found = results(tmp_path)
    assert found["ended"] is None
    assert found["steps"][0]["name"] == "card and versions"
    assert {"smoke: reassemble dx float32", "smoke: carafe dx float32"} <= {*found["not_run"]}


_CHILD = """
import sys, time
from experiments.benchmarks.gpu import child
child.end_with(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(600)
"""


def test_a_child_ends_with_its_parent():
    program = """
import os, signal, subprocess, sys
command = [sys.executable, "-c", sys.argv[1], str(os.getpid())]
process = subprocess.Popen(command, stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    pid = int(python(program, _CHILD).stdout)
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_a_child_outlives_a_thread_of_the_profiler_that_started_it():
    program = """
import subprocess, sys, threading
started = []
def start():
    command = [sys.executable, "-c", sys.argv[1], "1"]  # not the parent's process id
    started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
    started[0].stdout.readline()
thread = threading.Thread(target=start)
thread.start()
thread.join()
try:
    started[0].wait(1)
except subprocess.TimeoutExpired:
    print("alive")
started[0].kill()
"""
    assert python(program, _CHILD).stdout == "alive\n"


def test_phases_share_the_remaining_time(tmp_path, monkeypatch):
    ends = {}

    def run_steps(steps, *, end, **_):
        for step in steps:
            ends.setdefault(step.phase, end)
            yield Finished(step, Verdict(Outcome.OK, ""))

    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    monkeypatch.setattr(bringup, "run_steps", run_steps)
    record = Record(tmp_path)
    bringup.Run(record, plan.Plan([1], tmp_path), 515).all()
    record.close("complete")
    # No step took any time, so each phase has its share of the whole budget.
    assert ends == pytest.approx(
        {"card": 510, "smoke": 90, "right": 510 * 120 / 420, "fast": 510 * 5 / 6, "why": 510},
        abs=2,
    )


@pytest.mark.slow
def test_the_real_children_run_in_the_interpreter(tmp_path, capsys):
    code = bringup.main(["--out", str(tmp_path), "--budget", "900", "--interpret"])
    out = capsys.readouterr().out
    found = results(tmp_path)
    assert (code, found["ended"], found["not_run"]) == (0, "complete", []), out
    assert {step["phase"] for step in found["steps"]} == {"card", "smoke", "right", "fast"}
    # Variants need not support float32, nor the interpreter.
    supported = [step for step in found["steps"] if step["outcome"] != "refused"]
    assert all("variant" in step["about"] for step in found["steps"] if step not in supported)
    assert {step["outcome"] for step in supported} == {"ok"}
    assert all(step["measured"] for step in supported)
