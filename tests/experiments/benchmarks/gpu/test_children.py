import os
import time

import pytest

from experiments.benchmarks.gpu import children, profilers
from experiments.benchmarks.gpu.children import Step, run_steps
from experiments.benchmarks.gpu.outcomes import Outcome, Verdict
from tests.experiments.benchmarks.gpu.fake_children import PROGRAMS, command, is_alive

pytestmark = pytest.mark.slow

EXPECTED = {
    "ok": (Outcome.OK, "fine"),
    "wrong": (Outcome.WRONG, "all of it"),
    "refused": (Outcome.REFUSED, "another capability"),
    "hang": (Outcome.HANG, "did not end while running it"),
    "hang in a case": (Outcome.HANG, "did not end while running it"),
    "slow": (Outcome.SLOW, "did not end while compiling"),
    "hang with a child": (Outcome.SLOW, "did not end while"),
    "hang that hears no signal": (Outcome.SLOW, "did not end"),
    "hang without a pipe": (Outcome.SLOW, "did not end"),
    "error after a measurement": (Outcome.ERROR, "exit code 1: nvidia-smi"),
    "orphan": (Outcome.OK, "left something"),
    "segfault": (Outcome.CRASH, "SIGSEGV while running"),
    "abort": (Outcome.CRASH, "SIGABRT"),
    "memory": (Outcome.OUT_OF_MEMORY, "MemoryError while taking"),
    "killed": (Outcome.OUT_OF_MEMORY, "SIGKILL by the system while running"),
    "device memory": (Outcome.OUT_OF_MEMORY, "RESOURCE_EXHAUSTED"),
    "sticky": (Outcome.CUDA_ERROR, "CUDA_ERROR_ILLEGAL_ADDRESS while running"),
    "sticky abort": (Outcome.CUDA_ERROR, "CUDA_ERROR_LAUNCH_FAILED"),
    "exception": (Outcome.ERROR, "exit code 1: ValueError: no room"),
    "reported exception": (Outcome.ERROR, "ValueError: no room"),
    "garbage": (Outcome.BAD_OUTPUT, "not a message: b'garbage'"),
    "no object": (Outcome.BAD_OUTPUT, "not a message: b'[1, 2]'"),
    "binary garbage": (Outcome.BAD_OUTPUT, "not a message: b'\\x00"),
    "half a message": (Outcome.BAD_OUTPUT, "not a message: b'{\"do'"),
    "nothing": (Outcome.BAD_OUTPUT, "it ended without a result"),
    "endless messages": (Outcome.BAD_OUTPUT, "it wrote too much"),
    "endless log": (Outcome.BAD_OUTPUT, "it wrote too much"),
}
HANG_SECONDS = 10.0
ENOUGH_SECONDS = 120.0


def run(steps, seconds=ENOUGH_SECONDS, parallel=1):
    end = time.monotonic() + seconds
    return [*run_steps(steps, end=end, parallel=parallel, environment=os.environ, folder="/")]


def step(program, seconds=ENOUGH_SECONDS, **options):
    return Step("phase", program, command(program, '{"batch": 2}'), seconds, **options)


@pytest.fixture(scope="module")
def finished():
    """The finished steps of all programs, run in parallel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "MAX_LOG", 2**20)
        limits = {name: HANG_SECONDS for name in PROGRAMS if name.startswith(("hang", "slow"))}
        steps = [step(name, limits.get(name, ENOUGH_SECONDS)) for name in PROGRAMS]
        return {each.step.name: each for each in run(steps, parallel=8)}


def test_every_program_has_an_expected_outcome():
    assert EXPECTED.keys() == PROGRAMS.keys()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_has_its_expected_outcome(finished, program):
    outcome, detail = EXPECTED[program]
    assert finished[program].verdict.outcome is outcome
    assert finished[program].verdict.detail.startswith(detail)


@pytest.mark.parametrize(
    ("program", "value"), [("ok", 1), ("wrong", 2), ("hang", 3), ("garbage", 4)]
)
def test_measurements_before_the_end_are_kept(finished, program, value):
    assert finished[program].verdict.measured == ({"a": value},)


def test_the_children_of_a_child_end_with_it(finished):
    pid = int(finished["hang with a child"].verdict.detail.split()[-1])
    assert not is_alive(pid)


def test_the_beginning_and_the_end_of_a_log_are_kept(finished):
    assert "ValueError: no room" in finished["exception"].log
    assert "\n[...]\n" in finished["endless log"].log
    assert len(finished["endless log"].log) < 3 * children.KEPT_LOG


def test_a_step_ends_when_the_time_for_all_is_over():
    start = time.monotonic()
    first, second = run([step("hang", seconds=8), step("ok", seconds=8)], seconds=3)
    assert time.monotonic() - start < 3 + 30
    assert first.verdict.outcome is Outcome.NO_TIME
    assert second.verdict == Verdict(Outcome.NOT_RUN, "0 s left")


def test_other_steps_run_after_a_missing_command():
    absent = Step("phase", "absent", ["/no/such/command"], 10)
    missing = Step("phase", "missing", (), 0, missing="ncu is not installed")
    outcomes = [each.verdict.outcome for each in run([absent, missing, step("ok")])]
    assert outcomes == [Outcome.ERROR, Outcome.NOT_RUN, Outcome.OK]


def test_running_children_end_when_the_iterator_is_closed():
    steps = run_steps(
        [step("hang with a child"), step("ok")],
        end=time.monotonic() + ENOUGH_SECONDS, parallel=2, environment=os.environ, folder="/",
    )  # fmt: skip
    assert next(steps).step.name == "ok"
    running = children_of(os.getpid())
    assert running
    steps.close()
    assert not any(map(is_alive, running))


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [child for child in map(int, file.read().split()) if is_alive(child)]


def test_the_verdict_has_the_case_that_ran(finished):
    assert finished["hang in a case"].verdict.case == {"batch": 2}
    assert finished["hang"].verdict.case is None
    assert finished["slow"].verdict.case is None


def test_a_report_that_cannot_be_read_is_an_error_of_its_step():
    def report(found):
        return profilers.with_counters(found, f'"{"x" * 200_000}"')

    steps = [step("ok", report=report), step("wrong")]
    first, second = run(steps)
    assert first.verdict.outcome is Outcome.ERROR
    assert first.verdict.detail.startswith("cannot read the report: Error: field larger")
    assert first.verdict.measured == ({"a": 1},)
    assert second.verdict.outcome is Outcome.WRONG


def test_a_report_replaces_the_verdict():
    def report(found):
        return Verdict(Outcome.WRONG, f"not {found.detail}", found.measured)

    (only,) = run([step("ok", report=report)])
    assert (only.verdict.outcome, only.verdict.detail) == (Outcome.WRONG, "not fine")
