"""The same training on one device, on four of one process, and on two of each of two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.engine.logs import read_metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OPTIONS = [
    *("--training.schedule.unit", "step", "--training.schedule.length", "8"),
    *("--training.schedule.warmup", "2", "--training.batch-size", "16"),
    *("--model.width", "8", "--model.norm", "sync_batch", "--operation.log-every", "1"),
]


def start(folder, data_dir, devices, process=0, processes=1, port=0, options=()):
    command = [sys.executable, "-m", "experiments.classification", "train"]
    command += ["digits-resnet18-carafe", "--output", str(folder), "--data-dir", str(data_dir)]
    command += ["--distributed.cpu-devices", str(devices), *OPTIONS, *options]
    if processes > 1:
        command += ["--distributed.coordinator", f"127.0.0.1:{port}"]
        command += ["--distributed.processes", str(processes)]
        command += ["--distributed.process", str(process)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_losses_and_accuracy_depend_neither_on_devices_nor_on_processes(digits_dir, tmp_path):
    finish(start(tmp_path / "one", digits_dir, devices=1))
    finish(start(tmp_path / "four", digits_dir, devices=4))
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
        # Sums in another order, amplified step by step.
        np.testing.assert_allclose(losses, expected, rtol=2e-3)
        np.testing.assert_allclose(losses[:2], expected[:2], rtol=1e-5)
        for metric in ("eval/top1", "eval/top5"):
            found, right = (logs[run][-1][metric] for run in (name, "one"))
            assert found == pytest.approx(right, abs=3 / 297)


def test_a_batch_that_four_devices_cannot_share_and_missing_data_are_told(digits_dir, tmp_path):
    process = start(
        tmp_path / "odd", digits_dir, devices=4, options=["--training.batch-size", "18"]
    )
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "batch_size must be a multiple of 4" in output
    assert "[16, 20]" in output
    command = [sys.executable, "-m", "experiments.classification", "train", "table2-resnet50"]
    command += ["--output", str(tmp_path / "none"), "--data-dir", str(tmp_path / "nowhere")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "experiments.data.imagenet" in done.stderr  # how to prepare it
    assert not (tmp_path / "none").exists()
