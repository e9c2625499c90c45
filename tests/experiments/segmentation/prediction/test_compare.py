import dataclasses
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.engine.folders import Folders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.config import DataConfig, OwnFolders
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.prediction import compare as module
from experiments.segmentation.prediction.compare import (
    check_same_images,
    class_table,
    compare,
    metrics_table,
    spread_examples,
)
from tests.experiments.segmentation.evaluation import fake_segmenter
from tests.experiments.segmentation.evaluation.fake_segmenter import NAMES

CONFIG = SegmentationConfig(data=DataConfig(source="scenes"))
EVALUATION = EvaluationConfig(batch_size=4)


def run_of(sign, step, config=CONFIG):
    return LoadedRun(config, {"params": jnp.float32(sign), "model_state": {}}, step)


@pytest.fixture(scope="module")
def records():
    return fake_segmenter.make_records()


@pytest.fixture
def fake_task(monkeypatch, records, tmp_path):
    """Runs by the name of their folder, which are not trained; returns them and the calls."""
    loaded, calls = {}, []

    class Runs:
        def load(self, folder, checkpoint):
            assert checkpoint == "newest"
            return loaded[folder.name]

    def open_data(config, folders):
        assert config == CONFIG.data
        assert folders == Folders(tmp_path)
        return types.SimpleNamespace(validation=records, class_names=NAMES)

    def make_evaluator(config, data, evaluation, scales, flip):
        calls.append((config, evaluation, scales, flip))
        return fake_segmenter.evaluator(
            data.validation,
            infer=lambda state, image: fake_segmenter.infer(state["params"], image),
            flip=flip,
        )

    def make_infer(run):
        return lambda image: fake_segmenter.infer(run.state["params"], jnp.asarray(image))

    monkeypatch.setattr(module, "RUNS", Runs())
    for name, function in [
        ("open_data", open_data),
        ("make_evaluator", make_evaluator),
        ("make_infer", make_infer),
    ]:
        monkeypatch.setattr(module, name, function)
    return loaded, calls


@pytest.mark.slow
def test_every_run_is_evaluated_and_drawn_with_its_own_state(tmp_path, fake_task, capsys):
    loaded, calls = fake_task
    other = dataclasses.replace(CONFIG, model=SegmenterConfig(channels=64))
    loaded |= {"a": run_of(3, 7), "b": run_of(-3, 9, other)}
    runs = [tmp_path / "a", tmp_path / "b"]
    compare(runs, tmp_path / "out", Folders(tmp_path), 2, EVALUATION, flip=True)
    assert calls == [(config, EVALUATION, (1.0,), True) for config in (CONFIG, other)]
    found = json.loads((tmp_path / "out/compare.json").read_text())
    assert found["data"]["source"] == "scenes"
    assert (found["scales"], found["flip"]) == ([1.0], True)
    a, b = (found["runs"][name] for name in "ab")
    assert (a["step"], a["folder"], b["step"]) == (7, str(runs[0]), 9)
    table = (tmp_path / "out/table.md").read_text()
    assert "11 validation images of scenes" in table
    printed = capsys.readouterr().out
    for run, sign, name in ((a, 3, "a, step 7"), (b, -3, "b, step 9")):
        evaluate = fake_segmenter.evaluator(fake_segmenter.make_records(), flip=True)
        assert run["metrics"] == evaluate(jnp.float32(sign))
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
        assert f"| {100 * run['metrics']['mIoU']:.2f} |" in line
        assert f"{100 * run['metrics']['pixel_accuracy']:.2f}" in printed
    assert a["metrics"] != b["metrics"]
    with Image.open(tmp_path / "out/classes.png") as picture:
        drawn = np.asarray(picture)
    first, second = drawn[30:150, 326:640], drawn[30:150, 652:966]
    assert (first != second).any(-1).mean() > 0.2


@pytest.mark.slow
def test_own_images_are_drawn_below_the_validation_images(tmp_path, fake_task):
    loaded, _ = fake_task
    loaded |= {"a": run_of(3, 7), "b": run_of(-3, 9)}
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "red.png")
    arguments = [tmp_path / "a", tmp_path / "b"], tmp_path / "out", Folders(tmp_path)
    heights = []
    for examples, images in ((1, ()), (1, [tmp_path / "red.png"]), (0, [tmp_path / "red.png"])):
        compare(*arguments, examples, EVALUATION, images)
        with Image.open(tmp_path / "out/classes.png") as picture:
            heights.append(picture.height)
            assert bool(images) == (np.asarray(picture)[:, 50] == [200, 0, 0]).all(-1).any()
    assert heights[1] > heights[0]
    assert heights[1] > heights[2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(InputError, match=rf"image {bad} cannot be read"):
        compare(*arguments, 1, EVALUATION, [bad])
    with pytest.raises(InputError, match=r"classes\.png must not be an input"):
        compare(*arguments, 1, EVALUATION, [tmp_path / "out/classes.png"])


def test_runs_on_other_images_are_refused_and_the_fields_named(tmp_path, fake_task):
    loaded, calls = fake_task
    data = dataclasses.replace(CONFIG.data, source="ade20k", test_shorter=512)
    loaded |= {"a": run_of(1, 1), "b": run_of(1, 1, dataclasses.replace(CONFIG, data=data))}
    message = r"a and b with data\.source: 'scenes' -> 'ade20k'$"
    with pytest.raises(ConfigError, match=message):
        compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out", Folders(tmp_path))
    assert not (tmp_path / "out").exists()
    assert calls == []


def test_runs_may_differ_in_the_sizes_of_images_and_in_the_paths_of_own_files():
    crops = dataclasses.replace(
        CONFIG.data, augmentation="crop", crop_side=256, distort=True, flip=False, test_shorter=512
    )
    check_same_images({"a": CONFIG, "b": dataclasses.replace(CONFIG, data=crops)})
    paths = [OwnFolders("images", "labels", "classes", digest="x"), OwnFolders(*"ilc", digest="x")]
    moved = [dataclasses.replace(CONFIG, data=dataclasses.replace(crops, own=own)) for own in paths]
    check_same_images(dict(zip("ab", moved, strict=True)))
    own = dataclasses.replace(paths[0], digest="y")
    other = dataclasses.replace(CONFIG, data=dataclasses.replace(crops, own=own))
    with pytest.raises(ConfigError, match=r"with data\.own\.digest: 'x' -> 'y'$"):
        check_same_images({"a": moved[0], "b": other})


def test_bad_arguments_are_refused_by_name(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    arguments = [a, b], tmp_path / "out", Folders(tmp_path)
    with pytest.raises(ConfigError, match=r"runs.*two.*/a"):
        compare([a], *arguments[1:])
    with pytest.raises(ConfigError, match=r"runs.*different.*/a"):
        compare([a, b / ".." / "a"], *arguments[1:])
    for examples in (-1, 0):
        with pytest.raises(ConfigError, match=rf"examples.*{examples}"):
            compare(*arguments, examples=examples)
    with pytest.raises(ConfigError, match=r"scales .*positive.*0\.0"):
        compare(*arguments, scales=(0.0,))
    with pytest.raises(ConfigError, match=r"batch_size.* 4 .* 6"):
        compare(*arguments, evaluation=EvaluationConfig(batch_size=6))


def test_undefined_metrics_are_left_empty():
    rows = {"a": {"mIoU": 0.25, "IoU/sky": 0.5}, "b": {"mIoU": 0.3, "pixel_accuracy": 0.71239}}
    table = metrics_table("title", rows)
    assert table.headings == (
        "",
        "mIoU, %",
        "P.A., %",
        "mIoU of the classes that occur, %",
    )
    assert table.rows == (("a", "25.00", "", ""), ("b", "30.00", "71.24", ""))
    table = class_table(rows, ("sky", "sea"))
    assert table.headings == ("", "a", "b")
    assert table.rows == (("sky", "50.00", ""), ("sea", "", ""))


def test_examples_are_spread_over_the_readable_records(records):
    def sizes(source, count):
        found = spread_examples(source, count)
        for image, label in found:
            assert (image.height, image.width) == label.shape
        return [label.shape for _, label in found]

    every = fake_segmenter.SIZES
    assert sizes(records, 3) == [every[0], every[5], every[10]]
    assert sizes(records, 99) == every
    assert sizes(records, 0) == []
    damaged = [*records]
    damaged[0] = {**records[0], "image": b"no picture"}
    damaged[5] = {**records[5], "label": b"no picture"}
    assert sizes(damaged, 3) == [every[1], every[6], every[10]]
    assert sizes(damaged[:1], 3) == []
