"""A converted run is complete: it evaluates, predicts and is trained further."""

import dataclasses
import functools
import json
import shlex

import numpy as np
import pytest
from PIL import Image

from experiments.data.coco_names import CATEGORIES
from experiments.data.coco_tfds import CocoConfig, prepare
from experiments.detection import __main__ as command_line
from experiments.detection.conversion.conversion import to_run, training_command
from experiments.detection.task import RUNS
from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, steps_in
from experiments.engine.claim import CONFIG
from experiments.engine.optimization_config import ScheduleConfig
from tests.experiments.detection.conversion.networks import CARAFE, detector, narrow, random_file

pytestmark = pytest.mark.slow

COCO = CocoConfig(
    name="2017", train="train2017", validation="val2017", test="none", test_images="none"
)
HEIGHT, WIDTH = 48, 64


@pytest.fixture
def call(call_main):
    return functools.partial(call_main, command_line.main)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A dataset with the categories of COCO and a few images of noise."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    (folder / "annotations").mkdir()
    for split, ids in (("train2017", range(1, 9)), ("val2017", range(9, 11))):
        (folder / split).mkdir()
        content = {"images": [], "annotations": [], "categories": []}
        content["categories"] = [category._asdict() for category in CATEGORIES]
        for number in ids:
            name = f"{number:012}.jpg"
            pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / name)
            sides = {"height": HEIGHT, "width": WIDTH}
            content["images"].append({"id": number, "file_name": name, **sides})
            polygon = [5, 5, 40, 5, 40, 30, 5, 30]
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": CATEGORIES[number].id,
                    "bbox": [5, 5, 35, 25],
                    "area": 875,
                    "iscrowd": 0,
                    "segmentation": [polygon],
                }
            )
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    prepare(folder, folder / "data", COCO)
    return folder / "data"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A converted Faster R-CNN of mmdet, with a config of small images and two steps."""
    folder = tmp_path_factory.mktemp("converted")
    model = narrow(detector(neck=CARAFE))
    random_file(folder / "weights.safetensors", model, "mmdet", deviation=0.05)
    to_run(folder / "weights.safetensors", folder / "run")
    config = RUNS.load_config(folder / "run")
    fewer = {"per_level": 50, "kept": 50}
    model = dataclasses.replace(
        config.model,
        proposals=dataclasses.replace(config.model.proposals, **fewer),
        training_proposals=dataclasses.replace(config.model.training_proposals, **fewer),
    )
    config = dataclasses.replace(
        config,
        model=model,
        data=dataclasses.replace(config.data, shorter=48, longer=64, max_objects=2),
        training=dataclasses.replace(
            config.training, batch_size=4, workers=0, schedule=ScheduleConfig(length=2)
        ),
    )
    configs.save(config, folder / "run" / CONFIG)
    return folder / "run"


def test_a_converted_run_evaluates(run, data_dir, call):
    code, printed, error = call("evaluate", run, "--data-dir", data_dir, "--batch-size", 4)
    assert (code, error) == (0, "")
    assert "step 0, 2 images of validation:" in printed
    assert "box AP" in printed


def test_a_converted_run_predicts(run, call, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    output = tmp_path / "output"
    code, _, error = call("predict", tmp_path / "a.png", "--run", run, "--output", output)
    assert (code, error) == (0, "")
    (entry,) = json.loads((output / "detections.json").read_text())
    names = {category.name for category in CATEGORIES}
    assert {found["category"] for found in entry["detections"]} <= names


def test_a_converted_run_is_trained_further(run, data_dir, call, tmp_path):
    command = shlex.split(training_command(run))
    code, _, error = call(*command[3:], "--data-dir", data_dir, "--runs", tmp_path)
    assert code == 0, error
    assert max(steps_in(run / CHECKPOINTS)) == 2
