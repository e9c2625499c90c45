import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from experiments.inpainting.figures import contributions

OPTIONS = [
    "--training.schedule.length=12",
    "--training.schedule.warmup=2",
    "--training.batch-size=4",
    "--operation.checkpoint-every=3",
    "--data.crop-side=32",
    *("--widths", "4", "6"),
]


def start(output, data):
    command = [sys.executable, "-m", "experiments.inpainting", "demo"]
    command += ["--output", str(output), "--data-dir", str(data), *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def kill_when_there(process, path):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    output = finish(start(folder / "demo", folder / "data"))
    return folder / "demo", output


@pytest.mark.slow
def test_the_demo_leaves_table_figures_and_runs(whole):
    folder, output = whole
    for name, side in (("filled.png", 400), ("kernels.png", 400), ("losses.png", 300)):
        with Image.open(folder / name) as image:
            assert min(image.size) > side
            assert np.asarray(image).std() > 10
    results = json.loads((folder / "results.json").read_text())
    assert set(results["results"]) == {"baseline", "carafe"}
    for row in results["results"].values():
        assert set(row) == {"parameters", "l1_percent", "psnr_image", "psnr_hole"}
        assert f"{row['psnr_hole']:.2f}" in output
    assert "ranks nothing" in results["caveat"]
    assert (folder / "carafe/config.json").exists()


@pytest.mark.slow
def test_killed_again_and_again_and_resumed_it_gives_the_same_numbers(whole, tmp_path):
    folder = tmp_path / "demo"
    kill_when_there(start(folder, tmp_path / "data"), folder / "baseline/config.json")
    kill_when_there(start(folder, tmp_path / "data"), folder / "baseline/checkpoints/6")
    kill_when_there(start(folder, tmp_path / "data"), folder / "carafe/checkpoints/3")
    finish(start(folder, tmp_path / "data"))
    for name in ("results.json", "baseline/metrics.jsonl", "carafe/metrics.jsonl"):
        assert (folder / name).read_text() == (whole[0] / name).read_text(), name


def test_contributions_of_a_chain_by_hand():
    identity = np.zeros((1, 2, 2, 9), np.float32)
    identity[..., 4] = 1
    left = np.zeros((1, 4, 4, 9), np.float32)
    left[..., 3] = 0.25  # the pixel to the left of the centre
    reach = contributions([identity, left], [(1, 2), (2, 1)], (4, 4), (2, 3))
    expected = np.zeros((4, 4))
    expected[2, 0] = 0.25  # target (2, 3) -> coarse (1, 1) -> its left (1, 0) -> source (2, 0)
    np.testing.assert_array_equal(reach, expected)
