import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.engine.checkpoints import CheckpointError
from experiments.engine.config import ConfigError
from experiments.engine.folders import Folders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig, TrainingConfig
from experiments.inpainting.configs import AdversarialConfig, DataConfig, InpaintingConfig
from experiments.inpainting.fill import variables_of
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.report import compare as module
from experiments.inpainting.report.compare import compare
from experiments.inpainting.task import initial_state


@pytest.fixture
def images(tmp_path):
    """A folder of ten images."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def config(images):
    return InpaintingConfig(
        model=GeneratorConfig(width=2, levels=1, norm="none"),
        data=DataConfig(crop_side=16).with_images(images),
        adversarial=AdversarialConfig(weight=0),
        training=TrainingConfig(batch_size=4),
    )


@pytest.fixture
def fake_runs(monkeypatch):
    """Runs by the name of their folder, which are not trained."""
    loaded = {}

    class Runs:
        def load(self, folder, checkpoint):
            return loaded[folder.name]

    monkeypatch.setattr(module, "RUNS", Runs())
    return loaded


@pytest.mark.slow
def test_every_run_is_evaluated_with_the_variables_that_fill(tmp_path, config, fake_runs, capsys):
    state = initial_state(config)
    average = jax.tree.map(lambda leaf: leaf + 0.5, variables_of(state))
    averaged = LoadedRun(config, {**state, "average": average}, 9)
    fake_runs |= {"a": LoadedRun(config, state, 7), "b": averaged}
    compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out", Folders(tmp_path), examples=2)
    found = json.loads((tmp_path / "out/compare.json").read_text())
    a, b = (found["runs"][name] for name in "ab")
    assert (a["step"], b["step"]) == (7, 9)
    assert a["metrics"] != b["metrics"]
    assert found["data"] == dataclasses.asdict(config.data)
    printed = capsys.readouterr()
    table = (tmp_path / "out/table.md").read_text()
    for run, name in ((a, "a, step 7"), (b, "b, step 9")):
        (line, *_) = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
        assert f"| {run['metrics']['psnr_image']:.2f} |" in line
        assert f"{run['metrics']['psnr_image']:.2f}" in printed.out
    with Image.open(tmp_path / "out/fills.png") as picture:
        assert np.asarray(picture).std() > 10


def test_runs_on_different_data_are_refused(tmp_path, config, fake_runs):
    data = dataclasses.replace(config.data, crop_side=32)
    other = dataclasses.replace(config, data=data)
    fake_runs |= {"a": LoadedRun(config, None, 1), "b": LoadedRun(other, None, 1)}
    with pytest.raises(ConfigError, match=r"a and b.*data\.crop_side: 16 -> 32"):
        compare([tmp_path / "a", tmp_path / "b"], tmp_path / "out", Folders(tmp_path))
    assert not (tmp_path / "out").exists()


def test_bad_arguments_are_refused_by_name(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    with pytest.raises(ConfigError, match=r"runs.*two.*/a"):
        compare([a], tmp_path / "out", Folders(tmp_path))
    with pytest.raises(ConfigError, match=r"runs.*different.*/a"):
        compare([a, b / ".." / "a"], tmp_path / "out", Folders(tmp_path))
    with pytest.raises(ConfigError, match=r"examples.*0"):
        compare([a, b], tmp_path / "out", Folders(tmp_path), examples=0)
    with pytest.raises(ConfigError, match=r"batch_size.* 4 .* 6"):
        compare(
            [a, b], tmp_path / "out", Folders(tmp_path), evaluation=EvaluationConfig(batch_size=6)
        )
    with pytest.raises(CheckpointError, match=r"/a holds no run"):
        compare([a, b], tmp_path / "out", Folders(tmp_path))
