"""The same training in one process and in two, and in a process that is killed and resumed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.engine import config as configs
from experiments.engine.monitoring.logs import read_metrics
from tests.experiments.segmentation.tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_optimizations")]

ROOT = Path(__file__).parents[3]


def start(folder, data_dir, cache, process=0, port=0):
    command = [sys.executable, "-m", "tests.experiments.segmentation.tiny"]
    command += map(str, (folder, data_dir, cache, process, port))
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(folder):
    return read_metrics(folder / "metrics.jsonl")


def test_two_processes_train_and_evaluate_like_one(tiny_run, scenes_dir, cutouts_cache, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path / "two"
    processes = [start(folder, scenes_dir, cutouts_cache, number, port) for number in range(2)]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    assert "training images: 8, shapes: at most 1; validation images: 6, shapes: 1" in outputs[0]
    assert "training images" not in outputs[1]  # only the first process prints

    assert configs.differences(TINY, configs.load(type(TINY), folder / "config.json")) == []
    found, expected = lines(folder), lines(tiny_run)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    # Sums are added in another order, and six steps amplify the difference.
    for line, right in zip(found, expected, strict=True):
        assert line.keys() == right.keys()
        for metric, value in right.items():
            assert line[metric] == pytest.approx(value, rel=2e-3, abs=1e-4), metric


def test_a_run_that_is_killed_and_resumed_equals_a_run_that_is_not(
    tiny_run, scenes_dir, cutouts_cache, tmp_path
):
    folder = tmp_path / "killed"
    process = start(folder, scenes_dir, cutouts_cache)
    while process.poll() is None and not (folder / "checkpoints" / "2").is_dir():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "finished.json").exists()

    resumed = start(folder, scenes_dir, cutouts_cache)
    output = resumed.communicate(timeout=500)[0]
    assert resumed.returncode == 0, output
    assert lines(folder) == lines(tiny_run)
