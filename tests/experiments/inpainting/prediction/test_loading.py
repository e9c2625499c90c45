"""Choice of a run's checkpoint, and runs that cannot be loaded."""

import json
import shutil

import numpy as np
import pytest

from experiments.engine.checkpoints import CheckpointError
from experiments.inpainting.prediction.inpainter import load_inpainter
from tests.experiments.inpainting.prediction.runs import BOX, pixels, save_run

pytestmark = pytest.mark.usefixtures("few_optimizations")


def test_the_newest_checkpoint_fills_and_a_damaged_one_is_reported(tmp_path, capsys):
    save_run(tmp_path, {1: (1.0, 20.0), 2: (2.0, 30.0), 3: (3.0, 10.0)})
    values, hole = pixels(), BOX.hole(tmp_path, (21, 30), False)
    (tmp_path / "second").mkdir()
    save_run(tmp_path / "second", {0: (3.0, None)})
    newest = load_inpainter(tmp_path)(values, hole)
    np.testing.assert_array_equal(newest, load_inpainter(tmp_path / "second")(values, hole))
    best = load_inpainter(tmp_path, checkpoint="best")(values, hole)
    assert (best != newest).any()
    assert capsys.readouterr().err == ""
    damage(tmp_path / "checkpoints/3")
    # The checkpoint before it is also the best.
    np.testing.assert_array_equal(load_inpainter(tmp_path)(values, hole), best)
    reported = capsys.readouterr().err
    assert "checkpoints/3: " in reported
    assert reported.endswith("; the checkpoint of step 2 is used\n")


def damage(checkpoint):
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=rf"{tmp_path}.*config\.json"):
        load_inpainter(tmp_path)


def test_a_truncated_checkpoint_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    damage(tmp_path / "run/checkpoints/0")
    with pytest.raises(CheckpointError, match=r"checkpoints/0.* damaged"):
        load_inpainter(tmp_path / "run")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("task", "classification", "inpainting.*task.*'classification'"),
        ("backbone", "resnet50", "inpainting.*backbone"),
        ("model.downsampler", "zzz", r"inpainting.*model\.downsampler.*'zzz'"),
        ("model.width", 6, "checkpoints/0.* model"),
    ],
)
def test_a_run_of_another_task_or_model_is_refused(run, tmp_path, field, value, message):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    *section, name = field.split(".")
    (config[section[0]] if section else config)[name] = value
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_inpainter(tmp_path / "run")
