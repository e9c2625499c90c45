"""Runs of one and of two processes: killed, asked to stop, and resumed."""

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.engine.checkpoints import steps_in
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.tables.example_sums import read_sums
from tests.experiments.engine import toy
from tests.experiments.engine.toy_processes import Processes, Run, free_port

FOREVER = 100_000
SETTINGS = [(1, 0), (1, 2), (2, 0), (2, 2)]  # processes, grain workers


def steps_and_evaluations(folder):
    """Returns the lines of the log: those of steps, and those of evaluations."""
    lines = read_metrics(folder / "metrics.jsonl")
    evaluations = {line["step"]: line["eval/score"] for line in lines if "eval/score" in line}
    steps = [line for line in lines if "loss" in line]
    assert len(steps) + len(evaluations) == len(lines)
    return steps, evaluations


def latest(folder):
    return max(steps_in(folder / "checkpoints"), default=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Losses of a run without interruption, by the number of processes."""
    losses = {}
    for processes in (1, 2):
        folder = tmp_path_factory.mktemp("undisturbed")
        Run(folder, 400, processes, workers=0, checkpoint_every=FOREVER).finish()
        losses[processes] = [line["loss"] for line in steps_and_evaluations(folder)[0]]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)  # sums in another order
    return losses


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), SETTINGS)
def test_losses_are_the_same_after_kills_at_random_moments(
    undisturbed, tmp_path, processes, workers
):
    moments = random.Random(10 * processes + workers)
    for _ in range(10 if (processes, workers) == (1, 0) else 2):
        before = latest(tmp_path)
        run = Run(tmp_path, FOREVER, processes, workers)
        run.wait_for(lambda before=before: latest(tmp_path) > before)
        time.sleep(moments.uniform(0, 0.4))
        run.kill()
        assert latest(tmp_path) > before
    steps = latest(tmp_path) // 4 * 4 + 8
    Run(tmp_path, steps, processes, workers).finish()
    lines, evaluations = steps_and_evaluations(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert [line["loss"] for line in lines] == undisturbed[processes][:steps]
    assert list(evaluations) == list(range(4, steps + 1, 4))
    best = max(evaluations, key=evaluations.__getitem__)
    assert steps_in(tmp_path / "checkpoints") == sorted({best, steps - 2, steps})
    assert not (tmp_path / "incidents.jsonl").read_text()


def children_of(process):
    children = []
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        # A thread may end while we read; its children then belong to another thread.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, (thread / "children").read_text().split())
    return children


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 0), (1, 2)])
def test_sigterm_saves_and_ends(undisturbed, tmp_path, processes, workers):
    run = Run(tmp_path, FOREVER, processes, workers)
    run.wait_for(lambda: latest(tmp_path) > 0)
    # Slurm sends the signal to the workers too. One of several processes is enough to end all.
    children = []

    def all_workers_are_seen():
        children[:] = children_of(run.processes[-1])
        return len(children) >= workers

    run.wait_for(all_workers_are_seen)
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    time.sleep(2 if children else 0)  # the absence of a worker that had ended would be noticed
    run.processes[-1].send_signal(signal.SIGTERM)
    outputs = run.finish(code=143)
    stopped = latest(tmp_path)
    assert f"SIGTERM after step {stopped} of" in outputs[0]
    lines, _ = steps_and_evaluations(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, stopped + 1))
    Run(tmp_path, stopped + 3, processes, workers).finish()
    lines, _ = steps_and_evaluations(tmp_path)
    assert [line["loss"] for line in lines] == undisturbed[processes][: stopped + 3]


@pytest.mark.slow
def test_a_failing_process_ends_the_others(tmp_path):
    began = time.monotonic()
    run = Run(tmp_path, FOREVER, 2, workers=0, note="fails")
    outputs = [process.communicate(timeout=280)[0] for process in run.processes]
    assert "cannot read" in outputs[1]
    assert all(process.returncode for process in run.processes)
    assert time.monotonic() - began < 200  # JAX alone would wait for five minutes


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_in_one_process_saves_and_ends_them_all(undisturbed, tmp_path, processes):
    for _ in range(4 if processes == 1 else 1):
        before = latest(tmp_path)
        run = Run(tmp_path, FOREVER, processes, workers=0)
        run.wait_for(lambda before=before: latest(tmp_path) > before)
        run.processes[-1].send_signal(signal.SIGINT)
        *outputs, output = [process.communicate(timeout=280)[0] for process in run.processes]
        codes = [process.returncode for process in run.processes]
        assert codes == [143, 130][-processes:], (outputs, output)
        stopped = latest(tmp_path)
        assert f"SIGINT after step {stopped} of" in output
    Run(tmp_path, stopped + 3, processes, workers=0).finish()
    lines, _ = steps_and_evaluations(tmp_path)
    assert [line["loss"] for line in lines] == undisturbed[processes][: stopped + 3]


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 1, 3])
def test_ctrl_c_in_a_terminal_reaches_workers_that_start(tmp_path, delay):
    run = Run(tmp_path, FOREVER, 1, workers=2)
    (process,) = run.processes
    run.wait_for(lambda: len(children_of(process)) >= 2)  # a worker, besides the resource tracker
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    (output,) = run.finish(code=130)
    assert f"SIGINT after step {latest(tmp_path)} of" in output
    lines, _ = steps_and_evaluations(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, latest(tmp_path) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True])
def test_a_run_goes_on_when_the_reader_of_its_output_ends(tmp_path, interrupted):
    run = Run(tmp_path, FOREVER if interrupted else 40, 1, workers=0)
    (process,) = run.processes
    run.wait_for(lambda: latest(tmp_path) > 0)
    process.stdout.close()
    if interrupted:
        before = latest(tmp_path)
        run.wait_for(lambda: latest(tmp_path) > before + 8)  # evaluations have been reported
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=280) == (130 if interrupted else 0)
    lines, _ = steps_and_evaluations(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, latest(tmp_path) + 1))
    assert interrupted or latest(tmp_path) == 40


@pytest.mark.slow
def test_processes_with_different_configs_do_not_train(tmp_path):
    run = Run(tmp_path, FOREVER, 2, workers=0, note="other")
    outputs = [process.communicate(timeout=280)[0] for process in run.processes]
    assert "note: '' -> 'other'" in outputs[1]
    assert "another process was started with another config" in outputs[0]
    assert not latest(tmp_path)


@pytest.mark.slow
def test_another_number_of_processes_is_refused_and_no_checkpoint_is_moved(tmp_path):
    Run(tmp_path, 4, 2, workers=0).finish()
    (output,) = Run(tmp_path, 8, 1, workers=0).finish(code=2)
    assert "is of a run of 2 processes" in output
    assert steps_in(tmp_path / "checkpoints") == [2, 4]


def test_two_processes_train_together_and_agree_with_one(tmp_path):
    Run(tmp_path / "two", 6, 2, workers=0, checkpoint_every=4).finish()
    toy.run(tmp_path / "one", 6)
    lines, evaluations = steps_and_evaluations(tmp_path / "two")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert list(evaluations) == [6]
    alone = [line["loss"] for line in read_metrics(tmp_path / "one/metrics.jsonl")]
    np.testing.assert_allclose([line["loss"] for line in lines], alone, rtol=1e-5)
    assert steps_in(tmp_path / "two/checkpoints") == [4, 6]


@pytest.mark.slow
def test_two_processes_train_the_rows_of_a_table_and_the_first_writes_it(tmp_path):
    together = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2, "cpu-devices": 2}
    options = [f"--distributed.{name}={value}" for name, value in together.items()]
    arguments = ["table1", f"--runs={tmp_path}", "--seeds", "0", "1", *options]
    first, second = Processes(
        "toy_table_program",
        [[*arguments, f"--distributed.process={process}"] for process in range(2)],
    ).finish()
    assert "Results: " in first
    assert "Table 1" in first
    assert "Table 1" not in second
    results = json.loads((tmp_path / "toy/table1/results.json").read_text())
    (difference,) = results["differences"]
    groups = difference["metrics"]["accuracy"]["groups"]
    assert difference["groups"] == 12
    assert groups["mean"] == pytest.approx(0.1)
    assert groups["low"] < 0.1 < groups["high"]
    sums = read_sums(tmp_path / "toy/wide-seed1").sums["accuracy"]
    assert sums == pytest.approx(0.2 * np.linspace(0.5, 1.5, 12))
    for name, accuracy in (("narrow", 0.1), ("wide", 0.2)):
        runs = results["presets"][name]["runs"]
        assert runs == {seed: {"accuracy": accuracy} for seed in "01"}
        for seed in runs:
            lines = read_metrics(tmp_path / f"toy/{name}-seed{seed}/metrics.jsonl")
            assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
