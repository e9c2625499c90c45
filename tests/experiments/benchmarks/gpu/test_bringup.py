import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import pytest

from experiments.benchmarks.gpu import bringup, machine, plan
from experiments.benchmarks.gpu.children import Finished
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict
from experiments.benchmarks.gpu.record import Record
from experiments.benchmarks.gpu.switches import SWITCHES, conclusion
from tests.experiments.benchmarks.gpu.fake_children import is_alive, results, run_with

ROOT = Path(__file__).parents[4]
FOLDER = ROOT / "experiments" / "benchmarks" / "gpu"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}",
    "JAX_PLATFORMS": "cpu",
}
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


def python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """`run_with` puts its own plan in the place of the real one."""
    monkeypatch.setattr(bringup, "Plan", bringup.Plan)


@pytest.fixture
def few_steps(monkeypatch):
    """One main case in one dtype, and nothing after it."""
    monkeypatch.setattr(plan, "MAIN", {"up 2": plan.MAIN["up 2"]})
    monkeypatch.setattr(plan, "MORE", {})
    monkeypatch.setattr(plan, "DTYPES", ("float32",))


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
    programs = {"dx": "wrong", "dx max_slots": "ok"}
    assert run_with(programs, tmp_path) == 1
    found = results(tmp_path)
    switched = [step for step in found["steps"] if step["phase"] == "switches"]
    assert len(switched) == 2 * len(SWITCHES)
    right = {step["about"]["switch"] for step in switched if step["outcome"] == "ok"}
    assert right == {"one slot"}
    assert len(found["conclusions"]) == 2
    assert found["conclusions"][0].startswith("reassemble dx float32: right with one slot: copying")
    assert capsys.readouterr().out.count("CONCLUSION") == 2


@pytest.mark.usefixtures("few_steps")
def test_kernels_that_crash_are_not_asked_for_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        plan, "passes_without", lambda broken, *_: asked.append(set(broken)) or ["forward"]
    )
    assert run_with({"dlogits": "segfault", "bands": "abort", "dw": "wrong"}, tmp_path) == 1
    # One that is only wrong is timed, and XLA's times need no kernel at all.
    assert {frozenset(broken) for broken in asked} == {
        frozenset(), frozenset({plan.Kernel("carafe", "dlogits", "float32")})
    }  # fmt: skip
    names = [step["name"] for step in results(tmp_path)["steps"]]
    assert "up 2 float32, ours" in names
    assert "up 2 float32" not in names  # in float64, output and gradients are one program


def test_passes_without_broken_kernels():
    broken = {plan.Kernel("carafe", "dx", "float32")}
    assert plan.passes_without(broken, "carafe", "float32") == ["forward"]
    assert plan.passes_without(broken, "carafe", "bfloat16") == ["forward", "backward"]
    assert plan.passes_without(broken, "reassemble", "float32") == ["forward", "backward"]


@pytest.mark.parametrize(
    ("helped", "said"),
    [
        ({"automatic barriers"}, "a barrier between the threads of a block is missing"),
        ({"one slot"}, "its barrier or its parity"),
        ({"padded maps"}, "bounds"),
        ({"one step"}, "spoils the next"),
        ({"one step", "padded maps"}, "right with padded maps, one step"),
        (set(), "no switch helps: arithmetic"),
    ],
)
def test_conclusions(helped, said):
    outcomes = {switch: Outcome.OK if switch in helped else Outcome.WRONG for switch in SWITCHES}
    text = conclusion("reassemble dx float32", outcomes)
    assert text.startswith("reassemble dx float32: ")
    assert said in text
    assert "not known" not in text


def test_a_conclusion_says_what_is_not_known():
    outcomes = {"one slot": Outcome.WRONG, "padded maps": Outcome.NOT_RUN}
    text = conclusion("kernel", outcomes)
    assert text == (
        "kernel: no switch that ran helps (not known: automatic barriers, padded maps, one step)"
    )


def test_without_a_gpu_it_says_so(tmp_path):
    completed = python("from experiments.benchmarks.gpu.bringup import main; import sys; "
                       "sys.exit(main(sys.argv[1:]))", "--out", str(tmp_path))  # fmt: skip
    assert completed.returncode == 2
    assert completed.stderr.count("\n") == 1
    assert completed.stderr.startswith("no GPU to run the kernels on: NotImplementedError: this ")
    assert "needs an NVIDIA GPU" in completed.stderr or "they need an NVIDIA" in completed.stderr
    assert results(tmp_path)["ended"] == "no card"


def test_a_card_of_another_capability_is_refused(monkeypatch):
    ampere = mock.Mock(
        spec=jax.Device, platform="gpu", device_kind="NVIDIA A100", compute_capability="8.0"
    )
    monkeypatch.setattr(jax, "devices", lambda: [ampere])
    with pytest.raises(NotImplementedError, match=r"A100 has compute capability 8\.0"):
        machine.card(mock.Mock(), any_device=False)


@pytest.mark.parametrize(("card", "code"), [("refused", 2), ("exception", 2)])
def test_a_card_that_is_refused_ends_the_run(tmp_path, capsys, card, code):
    assert run_with({"card": card}, tmp_path) == code
    err = capsys.readouterr().err
    assert err.startswith("no GPU to run the kernels on: ")
    assert err.count("\n") == 1
    assert [step["name"] for step in results(tmp_path)["steps"]] == ["card and versions"]


@pytest.mark.parametrize("budget", ["104", "0", "-1", "nan", "much"])
def test_a_budget_that_is_too_small_is_refused(tmp_path, capsys, budget):
    try:
        code = bringup.main(["--out", str(tmp_path / "out"), "--budget", budget])
    except SystemExit as error:
        code = error.code
    assert code == 2
    err = capsys.readouterr().err
    assert "--budget" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert bringup.main(["--out", str(tmp_path / "file" / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("--out must be a folder that can be written: ")
    assert err.count("\n") == 1


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


def test_a_child_ends_with_its_parent(tmp_path):
    program = """
import subprocess, sys
child = "from experiments.benchmarks.gpu import child as c; c._end_with_the_parent(); "
child += "import time; print('ready', flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print(process.pid, flush=True)
import os, signal
os.kill(os.getpid(), signal.SIGKILL)
"""
    pid = int(python(program).stdout)
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)


def test_phases_share_what_is_left(tmp_path, monkeypatch):
    ends = {}

    def run_steps(steps, *, end, **_):
        now = time.monotonic()
        for step in steps:
            ends.setdefault(step.phase, end - now)
            yield Finished(step, Verdict(Outcome.OK, ""))

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
@pytest.mark.interpreted
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
