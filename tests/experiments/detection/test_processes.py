"""The same training in one process with four devices, and in two processes with two each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.engine import config as configs
from experiments.engine.monitoring.logs import read_metrics
from tests.experiments.detection.tiny import TINY

pytestmark = pytest.mark.usefixtures("few_optimizations")

ROOT = Path(__file__).parents[3]


def start(folder, data_dir, cache, process, port):
    command = [sys.executable, "-m", "tests.experiments.detection.tiny"]
    command += map(str, (folder, data_dir, cache, process, port))
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_train_and_evaluate_like_one(tiny_run, scenes_dir, cutouts_cache, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path / "two"
    processes = [start(folder, scenes_dir, cutouts_cache, number, port) for number in range(2)]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    assert "8 images with objects to train on, 6 to evaluate" in outputs[0]
    assert "images with objects" not in outputs[1]  # only the first process prints

    assert configs.differences(TINY, configs.load(type(TINY), folder / "config.json")) == []
    found, expected = (read_metrics(run / "metrics.jsonl") for run in (folder, tiny_run))
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    # An image may be on a different device, with a different key and thus different negatives. All
    # positive examples are sampled, so their losses in the first step are the same.
    for metric, value in expected[0].items():  # including the norm of the gradient
        assert found[0][metric] == pytest.approx(value, rel=1e-3), metric
    for metric in ("boxes", "masks", "rpn_boxes", "positives"):
        assert found[0][metric] == pytest.approx(expected[0][metric], rel=1e-5), metric
    for line, right in zip(found[:6], expected[:6], strict=True):
        for metric, tolerance in {"rpn_objectness": 1e-3, "rpn_boxes": 1e-3, "loss": 0.05}.items():
            assert line[metric] == pytest.approx(right[metric], rel=tolerance), metric
    for metric, value in expected[-1].items():
        assert found[-1][metric] == pytest.approx(value, abs=0.02), metric
