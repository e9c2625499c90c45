"""Calls of the command line, in this process."""

import functools
import re

import jax
import pytest

from experiments.engine import config as configs
from experiments.engine.monitoring.logs import read_metrics
from experiments.pyramid import __main__ as command_line
from experiments.pyramid.spec import step_seconds
from experiments.segmentation.presets import PRESETS as SEGMENTERS
from tests.experiments.pyramid.tiny import TINY

pytestmark = pytest.mark.usefixtures("few_optimizations")


@pytest.fixture
def call(call_main):
    """Calls the program; returns its exit code, its output and its errors."""
    return functools.partial(call_main, command_line.main)


@pytest.fixture
def data(folders):
    return "--data-dir", folders.data_dir, "--cache", folders.cache


def scenes(prefix):
    return [
        *(f"{prefix}.photographs", "pypi", f"{prefix}.longer-side", 96),
        *(f"{prefix}.training-images", 12, f"{prefix}.validation-images", 14),
        *(f"{prefix}.largest", 48, f"{prefix}.max-objects", 2),
    ]


def test_the_folder_of_the_features_is_printed(features, data, call):
    code, printed, error = call("features", *data, *scenes("--scenes"))
    assert (code, error) == (0, "")
    assert printed == f"{features.folder}\n"


@pytest.mark.slow
def test_a_run_is_trained_and_evaluated(features, landscapes, call, tmp_path):
    run = tmp_path / "run"
    data = "--data-dir", landscapes.data_dir, "--cache", landscapes.cache
    training, validation = (len(features.groups[split][0]) for split in ("train", "validation"))
    code, printed, _ = call(
        *("train", "nearest", "--output", run, *data, *scenes("--scenes")),
        *("--training.schedule.length", 2, "--training.schedule.warmup", 0),
        *("--training.batch-size", 4, "--model.channels", 8),
    )
    assert code == 0
    assert f"training images: {training}, validation images: {validation}" in printed
    code, printed, error = call("evaluate", run, *data, "--batch-size", 4)
    assert (code, error) == (0, "")
    assert f"step 2, {validation} scenes of validation:" in printed
    logged = read_metrics(run / "metrics.jsonl")[-1]
    assert f"  mIoU {100 * logged['eval/mIoU']:.2f} %" in printed
    assert f"  mIoU near borders {100 * logged['eval/mIoU_border']:.2f} %" in printed
    classes = dict(re.findall(r"│ (\w+) +│ +([\d.]+|absent) │", printed))
    assert list(classes) == list(features.class_names)


def test_the_costs_of_a_table_are_printed(call):
    code, printed, error = call("table14", "--dry-run")
    assert (code, error) == (0, "")
    assert re.search(r"Softmax +│ +115,177 │ +0\.1155 │", printed)


@pytest.mark.slow
def test_a_training_step_and_an_inference_are_timed():
    training, inference = step_seconds(TINY, jax.device_count())
    assert training > 0
    assert inference > 0


def test_a_folder_without_a_run_of_this_task_is_named(call, tmp_path):
    code, _, error = call("evaluate", tmp_path)
    assert code == 2
    assert f"{tmp_path} holds no run" in error
    configs.save(SEGMENTERS[0].config, tmp_path / "config.json")
    code, _, error = call("evaluate", tmp_path)
    assert code == 2
    assert f"{tmp_path} is no run of the pyramid task" in error


def test_missing_material_is_named_with_the_command_that_fetches_it(call, tmp_path):
    code, _, error = call(
        "train", "nearest", "--data-dir", tmp_path / "data", "--cache", tmp_path / "cache",
        "--runs", tmp_path / "runs",
    )  # fmt: skip
    assert code == 2
    assert "data.composed.debian --cutouts" in error
    assert not (tmp_path / "runs/pyramid").exists()
