"""Calls of the command line, in this process."""

import functools
import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from experiments.classification.presets import PRESETS as CLASSIFIERS
from experiments.data.composed.scenes import CATEGORIES
from experiments.detection import __main__ as command_line
from experiments.engine import config as configs
from experiments.engine.monitoring.logs import read_metrics
from tests.experiments.detection.tiny import TINY


@pytest.fixture
def call(call_main):
    """Calls the program; returns its exit code, its output and its errors."""
    return functools.partial(call_main, command_line.main)


@pytest.fixture
def data(scenes_dir, cutouts_cache):
    return "--data-dir", scenes_dir, "--cache", cutouts_cache


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
    for name, label in (("box_AP", "box AP"), ("mask_AP", "mask AP"), ("box/AP50", "box AP50")):
        assert f"  {label} {100 * logged[f'eval/{name}']:.1f} %" in printed
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
def test_maps_are_drawn_beside_the_drawing_and_own_objects_need_carafe(
    tiny_run, data, call, tmp_path
):
    path, output = tmp_path / "photo.png", tmp_path / "output"
    Image.new("RGB", (50, 30), "gray").save(path)
    arguments = "--run", tiny_run, "--output", output, "--maps", "--baseline", tiny_run
    code, _, error = call("predict", path, *arguments)
    assert (code, error) == (0, "")
    names = {each.name for each in output.glob("*.png")}
    assert names == {"photo.png", "photo-maps-up.png", "photo-maps-pyramid.png"}
    with Image.open(output / "photo-maps-pyramid.png") as figure:
        assert min(figure.size) > 300
    code, _, error = call("own-object", tiny_run, *data, "--output", tmp_path / "shares")
    assert code == 2
    assert "'nearest' and 'strided'" in error


@pytest.mark.slow
def test_the_split_test_needs_a_results_folder_and_scenes_have_no_such_split(
    tiny_run, data, call, tmp_path
):
    code, _, error = call("evaluate", tiny_run, *data, "--split", "test")
    assert code == 2
    assert re.search("results.*None", error)
    results = tmp_path / "results"
    code, _, error = call(
        "evaluate", tiny_run, *data, "--split", "test", "--results", results, "--batch-size", 4
    )
    assert code == 2
    assert "images of test" in error
    assert not results.exists()
    code, _, error = call("evaluate", tiny_run, *data, "--batch-size", 6)
    assert code == 2
    assert re.search("batch_size.*4.*6", error)


def test_a_folder_without_a_run_is_named(call, tmp_path):
    for arguments in (["evaluate", tmp_path], ["predict", tmp_path / "a.png", "--run", tmp_path]):
        code, _, error = call(*arguments)
        assert code == 2
        assert f"{tmp_path} holds no run" in error


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"dtype": ' + "9" * 5000 + "}", "[1e999]"])
def test_a_damaged_config_is_named_in_one_line(call, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for arguments in (["evaluate", tmp_path], ["predict", tmp_path / "a.png", "--run", tmp_path]):
        code, _, error = call(*arguments)
        assert code == 2
        assert re.fullmatch(r"error: [^\n]*config\.json[^\n]*\n", error)


def test_bad_options_of_an_evaluation_and_missing_images_are_named(call, tmp_path):
    code, _, error = call("evaluate", tmp_path, "--max-unreadable-records", -1)
    assert code == 2
    assert re.search("max_unreadable_records.*-1", error, re.DOTALL)
    code, _, error = call("predict", "--run", tmp_path)
    assert code == 2
    assert "images must be one or more" in error


def test_missing_coco_is_named_before_a_run_begins(call, tmp_path):
    backbone = ["--backbone-from", tmp_path / "backbone"]
    (tmp_path / "backbone").mkdir()
    backbone_config = next(each.config for each in CLASSIFIERS if each.name == "table2-resnet50")
    configs.save(backbone_config, tmp_path / "backbone/config.json")
    (tmp_path / "backbone/finished.json").write_text("{}")
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
    assert "box AP 40.3 %" in text
    assert "mask AP 36.8 %" in text
    for field in ("--model.neck.upsampler", "--data.shorter", "--backbone-from", "--cache"):
        assert field in text
    assert "--task" not in text
