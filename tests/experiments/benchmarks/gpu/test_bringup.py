import json
import signal
import subprocess
import sys
import time

import pytest

from experiments.benchmarks.cases import Case
from experiments.benchmarks.gpu import bringup, plan
from experiments.benchmarks.gpu.children import Finished
from experiments.benchmarks.gpu.kernels import PASSES
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict
from experiments.benchmarks.gpu.record import Record
from experiments.benchmarks.gpu.switches import SWITCHES
from tests.experiments.benchmarks.gpu.fake_children import is_alive, results, run_with
from tests.experiments.benchmarks.gpu.programs import ENVIRONMENT, ROOT, python
from tests.slow import slow

FOLDER = ROOT / "experiments" / "benchmarks" / "gpu"
# What a machine with JAX and Flax may lack; optax and rich come with Flax.
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


def test_children_import_nothing_that_a_machine_with_a_gpu_may_lack():
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


def test_a_run_in_which_all_is_right(tmp_path, capsys):
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
    assert fast[: len(main)] == main
    log = (tmp_path / "log.txt").read_text()
    assert all(line in log for line in lines)


@pytest.mark.usefixtures("few_steps")
def test_tools_that_are_not_there_are_no_failure(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_with({}, tmp_path / "out") == 0
    assert capsys.readouterr().out.count("ncu is not installed") == 4
    assert sum(line.startswith("why: ") for line in results(tmp_path / "out")["not_run"]) == 5


@pytest.mark.usefixtures("few_steps")
def test_a_failing_kernel_runs_again_with_switches(tmp_path, capsys):
    programs = {"dx": "wrong", "dx max_slots": "ok", "dx one_step": "refused"}
    assert run_with(programs, tmp_path) == 1
    found = results(tmp_path)
    switched = [step for step in found["steps"] if step["phase"] == "switches"]
    assert len(switched) == 2 * len(SWITCHES)
    right = {step["about"]["switch"] for step in switched if step["outcome"] == "ok"}
    assert right == {"one slot"}
    # They come in the order in which the steps before them ended.
    carafe, reassemble = sorted(found["conclusions"])
    said = "dx float32: right with one slot: copying"
    assert carafe.startswith(f"carafe {said}")
    assert reassemble.startswith(f"reassemble {said}")
    assert reassemble.endswith("(does not apply: one step)")
    assert capsys.readouterr().out.count("CONCLUSION") == 2


def planned(asked, do):
    """Options of the steps of a function."""
    return [options for each, options in asked if each == do]


def timed(asked):
    """Cases and passes of the kernels that are timed."""
    return {
        (Case.from_json(run["case"]), name)
        for options in planned(asked, "operators") if options["implementation"] == "mosaic_gpu"
        for run in options["runs"] for name in run["passes"]
    }  # fmt: skip


@pytest.mark.usefixtures("few_steps")
def test_kernels_that_crash_are_not_asked_for_again(tmp_path):
    asked = []
    programs = {"dlogits": "segfault", "bands": "abort", "dw": "wrong"}
    assert run_with(programs, tmp_path, asked=asked) == 1
    up = plan.MAIN["up 2"]
    # One that is only wrong is timed, and XLA's times need no kernel at all.
    assert timed(asked) == {
        (up, "forward"), (up, "backward"), (up.replace(normalizer="softmax"), "forward"),
    }  # fmt: skip
    (xla,) = [each for each in planned(asked, "operators") if each["implementation"] == "xla"]
    assert [run["passes"] for run in xla["runs"]] == [["forward", "backward"]] * 2
    # In float64, output and gradients are one program.
    (right,) = planned(asked, "right")
    assert right["cases"] == [up.to_json()]
    assert {each["normalizer"] for options in planned(asked, "checks")
            for _, each in options["cases"] if each["dtype"] == "float32"} == {None}  # fmt: skip
    assert [each["leave_out_kernels"] for each in planned(asked, "layers")] == [True]


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_a_kernel_that_is_slow_to_compile_is_kept_and_runs_again(tmp_path):
    asked = []
    code = run_with({"dx": "slow"}, tmp_path, seconds={"dx": 2}, asked=asked)
    assert code == 1  # nobody knows yet whether it is right
    up = plan.MAIN["up 2"]
    assert {case for case, _ in timed(asked)} == {up, up.replace(normalizer="softmax")}
    found = results(tmp_path)
    assert not [step for step in found["steps"] if step["phase"] == "switches"]
    slow = [step["name"] for step in found["steps"] if step["outcome"] == "slow"]
    assert sorted(slow) == ["carafe dx float32"] * 2 + ["reassemble dx float32"] * 2


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("do", [slow("right"), "smoke"])
def test_a_case_that_hangs_is_not_timed(tmp_path, monkeypatch, do):
    """The child names the last of its cases, which takes logits."""
    up = plan.MAIN["up 2"]
    monkeypatch.setattr(plan, "SMOKE_MORE", {"all": (up, up.replace(normalizer="softmax"))})
    monkeypatch.setattr(plan, "SMOKED_VARIANTS", ())
    asked = []
    programs = {do: "hang in a case"} | {
        kernel: "ok" for kernels in PASSES["carafe"].values() for kernel in (*kernels, "dw")
    }
    run_with(programs, tmp_path, seconds={do: 3}, asked=asked)
    assert {case for case, _ in timed(asked)} == {up}


def a_run(tmp_path, monkeypatch, outcomes):
    """Names of the steps of a run, in the order in which they are run.

    Args:
        outcomes: by phase, of the first try; all else is right.
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
def test_what_had_to_wait_runs_at_the_end(tmp_path, monkeypatch, phase, outcome):
    names = a_run(tmp_path, monkeypatch, {phase: outcome})
    waited = [name for name in dict.fromkeys(names) if name[0] == phase]
    assert names[-len(waited) :] == waited
    assert len(names) == len(set(names)) + len(waited)


def test_what_was_slow_runs_last(tmp_path, monkeypatch):
    slow_first = {plan.SMOKE: Outcome.SLOW, plan.RIGHT: Outcome.NOT_RUN}
    names = a_run(tmp_path, monkeypatch, slow_first)
    again = [phase for number, (phase, name) in enumerate(names) if (phase, name) in names[:number]]
    assert [*dict.fromkeys(again)] == [plan.RIGHT, plan.SMOKE]


@pytest.mark.parametrize(("phase", "code"), [("smoke", 1), ("right", 1), ("fast", 0)])
@pytest.mark.usefixtures("few_steps")
def test_a_check_that_never_ran_is_no_success(tmp_path, monkeypatch, phase, code):
    def run_steps(steps, **_):
        for step in steps:
            outcome = Outcome.NOT_RUN if step.phase == phase else Outcome.OK
            yield Finished(step, Verdict(outcome, ""))

    monkeypatch.setattr(bringup, "run_steps", run_steps)
    assert bringup.main(["--out", str(tmp_path)]) == code


def start(tmp_path, programs, steps):
    """A run in a process of its own, once some of its steps have ended."""
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


def test_after_sigterm_what_was_found_is_there(tmp_path):
    process = start(tmp_path, {"dx": "hang with a child"}, steps=6)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    found = results(tmp_path)
    assert found["ended"] == "SIGTERM"
    assert found["steps"][0]["name"] == "card and versions"
    assert "ended: SIGTERM" in out
    assert all(line in (tmp_path / "log.txt").read_text() for line in out.splitlines())


def test_after_sigkill_what_was_found_is_there(tmp_path):
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
    command = [sys.executable, "-c", sys.argv[1], "1"]  # its parent is further away
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


def test_phases_share_what_is_left(tmp_path, monkeypatch):
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
    # Nothing took any time, so each phase has its share of all.
    assert ends == pytest.approx(
        {"card": 510, "smoke": 90, "right": 510 * 120 / 420, "fast": 510 * 2 / 3, "why": 510},
        abs=2,
    )


@pytest.mark.slow
def test_the_real_children_run_in_the_interpreter(tmp_path, capsys):
    code = bringup.main(["--out", str(tmp_path), "--budget", "900", "--interpret"])
    out = capsys.readouterr().out
    found = results(tmp_path)
    assert (code, found["ended"], found["not_run"]) == (0, "complete", []), out
    assert {step["phase"] for step in found["steps"]} == {"card", "smoke", "right", "fast"}
    # Variants need not serve float32, nor the interpreter.
    served = [step for step in found["steps"] if step["outcome"] != "refused"]
    assert all("variant" in step["about"] for step in found["steps"] if step not in served)
    assert {step["outcome"] for step in served} == {"ok"}
    assert all(step["measured"] for step in served)
