"""Calls of the command line, in this process."""

import dataclasses
import functools
import json
import re

import numpy as np
import pytest
from PIL import Image

from experiments.classification.presets import PRESETS as CLASSIFIERS
from experiments.engine import config as configs
from experiments.engine.monitoring.logs import read_metrics
from experiments.segmentation import __main__ as command_line
from experiments.segmentation.task import read_class_names
from tests.compilation import few_optimizations
from tests.experiments.segmentation.tiny import TINY, train


@pytest.fixture
def call(call_main):
    """Calls the program; returns its exit code, its output and its errors."""
    return functools.partial(call_main, command_line.main)


@pytest.fixture
def data(scenes_dir, cutouts_cache):
    return "--data-dir", scenes_dir, "--cache", cutouts_cache


@pytest.mark.slow
def test_an_evaluation_prints_the_metrics_of_the_run_and_every_class(tiny_run, data, call):
    code, printed, error = call("evaluate", tiny_run, *data, "--batch-size", 4)
    assert (code, error) == (0, "")
    assert "step 6, 6 images of validation:" in printed
    logged = read_metrics(tiny_run / "metrics.jsonl")[-1]
    assert f"  mIoU {100 * logged['eval/mIoU']:.2f} %" in printed
    assert f"  P.A. {100 * logged['eval/pixel_accuracy']:.2f} %" in printed
    classes = dict(re.findall(r"│ (\w+) +│ +([\d.]+|absent) │", printed))
    names = read_class_names(tiny_run, 13)
    assert list(classes) == list(names)
    for name in names:
        iou = logged.get(f"eval/IoU/{name}")
        assert classes[name] == ("absent" if iou is None else f"{100 * iou:.2f}")
    # Several sizes and mirrored images of another split.
    code, several, _ = call(
        *("evaluate", tiny_run, *data, "--batch-size", 4),
        *("--scales", 0.5, 1, 1.5, "--flip", "--split", "train"),
    )
    assert code == 0
    assert "step 6, 8 images of train:" in several


@pytest.mark.slow
def test_a_prediction_draws_every_image_and_writes_its_labels(tiny_run, call, tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in ("landscape", "portrait", "broken")]
    for path, shape in zip(paths[:2], ((30, 50), (90, 60)), strict=True):
        Image.fromarray(rng.integers(0, 256, (*shape, 3), np.uint8)).save(path)
    paths[2].write_bytes(paths[0].read_bytes()[:99])
    output = tmp_path / "output"
    code, printed, error = call("predict", *paths, "--run", tiny_run, "--output", output)
    assert code == 2
    assert re.fullmatch(r"error: image .*broken\.png.*\n", error)
    assert printed.count(" -> ") == 2
    for path, size in zip(paths[:2], ((50, 30), (60, 90)), strict=True):
        with Image.open(output / f"{path.stem}-labels.png") as labels:
            assert labels.size == size
            assert np.asarray(labels).max() < 13
        assert (output / path.name).is_file()


@pytest.mark.slow
def test_runs_are_compared_in_a_table_and_a_figure(
    tiny_run, scenes_dir, cutouts_cache, data, call, tmp_path
):
    other, output = tmp_path / "other", tmp_path / "compare"
    smaller = dataclasses.replace(TINY.data, test_shorter=48, augmentation="crop")
    with few_optimizations():
        train(other, scenes_dir, cutouts_cache, dataclasses.replace(TINY, data=smaller))
    options = ("--batch-size", 4, "--examples", 2, "--output", output)
    code, printed, error = call("compare", tiny_run, other, *data, *options)
    assert (code, error) == (0, "")
    found = json.loads((output / "compare.json").read_text())["runs"]
    for run in (tiny_run, other):
        logged = read_metrics(run / "metrics.jsonl")[-1]
        for name in ("mIoU", "pixel_accuracy", "IoU/other"):
            assert found[run.name]["metrics"][name] == pytest.approx(logged[f"eval/{name}"])
        assert f"{run.name}, step 6" in printed
    assert "6 validation images of scenes" in (output / "table.md").read_text()
    with Image.open(output / "classes.png") as figure:
        assert figure.width > 4 * 300  # image, two runs and ground truth

    linked = tmp_path / "linked"
    linked.symlink_to(tiny_run)
    for runs in ([tiny_run, linked], [tiny_run]):
        code, _, error = call("compare", *runs, *data)
        assert code == 2
        assert "runs" in error


def test_a_folder_without_a_run_is_named(call, tmp_path):
    for arguments in (
        ["evaluate", tmp_path],
        ["predict", tmp_path / "a.png", "--run", tmp_path],
        ["compare", tmp_path, tmp_path / "b"],
    ):
        code, _, error = call(*arguments)
        assert code == 2
        assert f"{tmp_path} holds no run" in error


def test_a_run_of_another_task_is_named(call, tmp_path):
    configs.save(CLASSIFIERS[0].config, tmp_path / "config.json")
    for arguments in (["evaluate", tmp_path], ["predict", tmp_path / "a.png", "--run", tmp_path]):
        code, _, error = call(*arguments)
        assert code == 2
        assert f"{tmp_path} is no run of the segmentation task" in error


def test_bad_options_are_named(call, tmp_path):
    code, _, error = call("evaluate", tmp_path, "--max-unreadable-records", -1)
    assert code == 2
    assert re.search("max_unreadable_records.*-1", error, re.DOTALL)
    code, _, error = call("predict", "--run", tmp_path)
    assert code == 2
    assert "images must be one or more" in error
    code, _, error = call("evaluate", tmp_path, "--scales", 0)
    assert code == 2
    assert re.search(r"scales.*0\.0", error, re.DOTALL)


def test_missing_ade20k_is_named_before_a_run_begins(call, tmp_path):
    code, _, error = call(
        *("train", "table8-upernet-resnet50", "--output", tmp_path / "run"),
        *("--data-dir", tmp_path / "nowhere", "--no-pretrained"),
    )
    assert code == 2
    assert "nowhere" in error
    assert "experiments.data.ade20k" in error
    assert not (tmp_path / "run").exists()


def test_a_missing_backbone_is_named_with_the_command_that_trains_it(call, tmp_path):
    code, _, error = call("train", "table8-upernet-resnet50-carafe", "--runs", tmp_path)
    assert code == 2
    assert "python -m experiments.classification train table8-resnet50-carafe" in error


def test_help_of_a_preset_names_its_score_and_its_fields(call):
    code, printed, _ = call("train", "table9-ppm-fpn-fuse", "--help")
    assert code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", printed).split())
    assert "mIoU 42.23 %, P.A. 80.34 %" in text
    for field in ("--model.fuse", "--data.shorter-sides", "--data.own.images", "--backbone-from"):
        assert field in text
    assert "--task" not in text


def test_the_classes_of_tiny_are_the_objects_and_other():
    assert TINY.data.classes == 13
