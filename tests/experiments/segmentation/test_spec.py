import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.engine import config as configs
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.config import ConfigError
from experiments.engine.folders import Folders
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.settings import Operation
from experiments.engine.tables.experiment import run_config
from experiments.segmentation.data.config import OwnFolders
from experiments.segmentation.presets import EXPERIMENTS
from experiments.segmentation.spec import SPEC, cost_of, prepare_config, resized, step_seconds
from tests.experiments.segmentation.tiny import TINY


@pytest.mark.slow
def test_costs_grow_with_the_size_of_the_image():
    small, large = (cost_of(resized(TINY, side)) for side in (64, 128))
    assert small.parameters == large.parameters
    assert 3.5 * small.flops < large.flops < 4.5 * small.flops
    without = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, auxiliary=False))
    assert cost_of(without).parameters < cost_of(TINY).parameters


def test_tables_give_the_cost_of_an_image_of_512_by_512_pixels():
    for table in ("table8", "table9", "mmseg"):
        assert {row.config.data.cost_side for row in EXPERIMENTS[table].presets} == {512}
    config = EXPERIMENTS["table8"].presets[0].config
    assert configs.differences(config, resized(config, 256)) == ["data.cost_side: 512 -> 256"]


@pytest.mark.slow
def test_a_training_step_and_an_inference_are_timed():
    config = resized(TINY, 64)
    training, inference = step_seconds(config, jax.device_count())
    assert training > 0
    assert inference > 0


def test_a_missing_backbone_is_reported_unless_the_run_has_checkpoints(tmp_path):
    config = EXPERIMENTS["table8"].presets[3].config
    folder, folders = tmp_path / "run", Folders(runs=tmp_path)
    with pytest.raises(CheckpointError, match="table8-resnet50-carafe"):
        prepare_config(config, folder, folders)
    (folder / "checkpoints" / "4").mkdir(parents=True)
    assert prepare_config(config, folder, folders) == config


@pytest.fixture
def cityscapes(tmp_path):
    """The config of folders in the layout of Cityscapes: four and two images of three classes."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2)):
        for number in range(count):
            values = rng.choice(np.array([0, 1, 2, 255], np.uint8), (48, 64))
            for kind, pixels in (
                ("leftImg8bit", np.stack([values] * 3, axis=-1)),
                ("gtFine_labelTrainIds", values),
            ):
                folder = tmp_path / kind.partition("_")[0] / part / "ulm"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / f"ulm_{number}_{kind}.png")
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    paths = [str(tmp_path / name) for name in ("leftImg8bit", "gtFine", "classes.txt")]
    own = OwnFolders(*paths, image_suffix="_leftImg8bit", label_suffix="_gtFine_labelTrainIds")
    return dataclasses.replace(TINY, data=dataclasses.replace(TINY.data, own=own))


@pytest.mark.slow
def test_a_run_on_own_folders_is_trained_and_refuses_changed_labels(cityscapes, tmp_path):
    arguments = (cityscapes, tmp_path / "run", Folders(tmp_path / "data"), Operation())
    run_config(SPEC, *arguments)
    last = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]
    assert {"eval/IoU/road", "eval/IoU/sky", "eval/IoU/car"} <= last.keys()
    label = tmp_path / "gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png"
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(label)
    with pytest.raises(ConfigError, match=r"data\.own\.digest"):
        run_config(SPEC, *arguments)
