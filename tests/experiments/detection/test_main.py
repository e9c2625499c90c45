"""The command line, in this process."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from experiments.data.composed.scenes import CATEGORIES
from experiments.detection import __main__ as command_line
from experiments.detection.presets import TABLES
from experiments.detection.task import TASK
from experiments.engine import config as configs
from experiments.engine.logs import read_metrics
from tests.experiments.detection.tiny import TINY


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the program; returns its exit code and what it printed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [TASK, *map(str, arguments)])
        code = 0
        try:
            command_line.main()
        except SystemExit as exit_:
            code = exit_.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.fixture
def data(scenes_dir, stamps_cache):
    return "--data-dir", scenes_dir, "--cache", stamps_cache


@pytest.mark.slow
def test_an_evaluation_prints_the_metrics_of_the_run_and_writes_its_detections(
    tiny_run, scenes_dir, data, call, tmp_path
):
    code, printed, error = call(
        "evaluate", tiny_run, *data, "--results", tmp_path, "--batch-size", 4
    )
    assert (code, error) == (0, "")
    assert "step 6, 6 images of validation:" in printed
    logged = read_metrics(tiny_run / "metrics.jsonl")[-1]
    for metric in ("box_AP", "mask_AP", "box/AP50"):
        assert f"  {metric} {100 * logged[f'eval/{metric}']:.1f} %" in printed
    assert f"detections in {tmp_path}" in printed

    truth = COCO(scenes_dir / "scenes" / TINY.data.scenes.name / "annotations/instances_val.json")
    for kind in ("bbox", "segm"):
        loaded = truth.loadRes(str(tmp_path / f"{kind}.json"))
        assert loaded.getImgIds() == truth.getImgIds()
        found = list(loaded.anns.values())
        assert {each["image_id"] for each in found} <= set(truth.getImgIds())
        assert {each["category_id"] for each in found} <= {each.id for each in CATEGORIES}
        assert found


@pytest.mark.slow
def test_a_prediction_draws_every_image_and_writes_its_objects(tiny_run, call, tmp_path):
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
    entries = json.loads((output / "detections.json").read_text())
    assert [entry["file"] for entry in entries] == list(map(str, paths[:2]))
    assert (entries[1]["height"], entries[1]["width"]) == (90, 60)
    names = dict(CATEGORIES)
    for entry in entries:
        assert 0 < len(entry["detections"]) <= TINY.model.box.detections
        for found in entry["detections"]:
            assert found["category"] == names[found["category_id"]]
    assert len(list(output.glob("*.png"))) == 2


@pytest.mark.slow
def test_the_split_test_is_for_results_alone_and_scenes_have_none(tiny_run, data, call, tmp_path):
    code, _, error = call("evaluate", tiny_run, *data, "--split", "test")
    assert code == 2
    assert error == "error: results must be given for the split test, got None\n"
    results = tmp_path / "results"
    code, _, error = call(
        "evaluate", tiny_run, *data, "--split", "test", "--results", results, "--batch-size", 4
    )
    assert code == 2
    assert "must have images of test, got none when prepared" in error
    assert not results.exists()
    code, _, error = call("evaluate", tiny_run, *data, "--batch-size", 6)
    assert code == 2
    assert "batch_size must be a multiple of 4" in error


def test_what_is_no_run_is_told(call, tmp_path):
    for arguments in (["evaluate", tmp_path], ["predict", tmp_path / "a.png", "--run", tmp_path]):
        code, _, error = call(*arguments)
        assert (code, error) == (2, f"error: {tmp_path} holds no run: config.json is missing\n")


def test_coco_that_is_not_there_is_told_before_a_run_begins(call, tmp_path, monkeypatch):
    backbone = ["--backbone-from", tmp_path / "backbone"]
    code, _, error = call(
        *(
            "train",
            "table4-carafe",
            "--output",
            tmp_path / "run",
            "--data-dir",
            tmp_path / "nowhere",
        ),
        *backbone,
    )
    assert code == 2
    assert "nowhere" in error
    assert "experiments.data.coco" in error
    assert not (tmp_path / "run").exists()


def test_help_of_a_preset_names_its_score_and_its_fields(call):
    code, printed, _ = call("train", "table7-all", "--help")
    assert code == 0
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", printed).split())
    assert "box AP 40.3" in text
    assert "mask AP 36.8" in text
    for field in ("--model.neck.upsampler", "--data.shorter", "--backbone-from", "--cache"):
        assert field in text


def test_train_hands_over_what_was_changed_of_a_preset(call, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(command_line, "train_run", lambda *arguments: calls.append(arguments))
    code, _, error = call(
        *("train", "scenes-cpu-carafe", "--output", tmp_path / "run", "--training.seed", 7),
        *("--operation.log-every", 3, "--data-dir", tmp_path, "--cache", tmp_path / "cache"),
    )
    assert code == 0, error
    ((config, output, data_dir, operation, cache),) = calls
    (preset,) = (row for row in command_line.SCENES["cpu"] if row.name == "scenes-cpu-carafe")
    assert configs.differences(preset.config, config) == ["training.seed: 0 -> 7"]
    assert (output, data_dir, cache) == (tmp_path / "run", tmp_path, tmp_path / "cache")
    assert (operation.log_every, operation.checkpoint_every) == (3, 1000)


def test_a_table_is_trained_or_dry_run_at_the_size_that_is_asked_for(call, tmp_path, monkeypatch):
    trained, priced = [], []
    monkeypatch.setattr(command_line, "run_table", lambda *arguments: trained.append(arguments))
    monkeypatch.setattr(command_line, "dry_run_table", lambda *arguments: priced.append(arguments))
    code, _, error = call("table13", "--data-dir", tmp_path, "--backbones", tmp_path / "backbones")
    assert code == 0, error
    ((title, rows, *folders, _),) = trained
    assert (title, rows) == ("table13", TABLES["table13"])
    assert folders == [Path("runs"), tmp_path, tmp_path / "backbones"]
    code, _, error = call(
        *("table6", "--dry-run", "--batch-size", 2, "--shorter", 256, "--longer", 320),
        *("--dtype", "bfloat16"),
    )
    assert code == 0, error
    _, title, rows, batch_size = priced[0]
    assert (title, batch_size, len(trained)) == ("table6", 2, 1)
    for row, preset in zip(rows, TABLES["table6"], strict=True):
        changed = configs.differences(preset.config, row.config)
        assert changed == [
            "data.shorter: 800 -> 256",
            "data.longer: 1333 -> 320",
            "dtype: 'float32' -> 'bfloat16'",
        ]
        assert row.paper == preset.paper


def test_scenes_are_trained_with_the_seeds_that_are_named(call, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(command_line, "run_experiment", lambda *arguments: calls.append(arguments))
    assert call("scenes", "--scale", "cpu", "--seeds", 4, 5)[0] == 0
    assert call("scenes", "--output", tmp_path)[0] == 0
    assert calls[0][:3] == (command_line.SCENES["cpu"], (4, 5), Path("runs/scenes-cpu"))
    assert calls[1][:3] == (command_line.SCENES["gpu"], (0, 1, 2), tmp_path)
