"""One training on one device, on four of one process, and on two of each of two processes."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.engine.monitoring.logs import read_metrics
from tests.experiments.classification.tiny import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_optimizations")]

ROOT = Path(__file__).parents[3]


def start(folder, data_dir, devices, process=0, processes=1, port=0):
    arguments = map(str, (folder, data_dir, devices, process, processes, port))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.experiments.classification.tiny", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_losses_and_accuracy_depend_neither_on_devices_nor_on_processes(digits_dir, tmp_path):
    train(tmp_path / "four", digits_dir)
    finish(start(tmp_path / "one", digits_dir, devices=1))
    port = free_port()
    finish(*(start(tmp_path / "two", digits_dir, 2, process, 2, port) for process in range(2)))
    logs = {
        name: read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "four", "two")
    }
    for name in ("four", "two"):
        losses, expected = (
            [line["loss"] for line in logs[run] if "loss" in line] for run in (name, "one")
        )
        assert len(losses) == 8
        # Sums in another order, whose differences grow with each step.
        np.testing.assert_allclose(losses, expected, rtol=2e-3)
        np.testing.assert_allclose(losses[:2], expected[:2], rtol=1e-5)
        for metric in ("eval/top1", "eval/top5"):
            found, right = (logs[run][-1][metric] for run in (name, "one"))
            assert found == pytest.approx(right, abs=3 / 297)
