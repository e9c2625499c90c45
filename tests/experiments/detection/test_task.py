import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.data.composed.scenes import CATEGORIES
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.errors import DataError
from experiments.detection import task
from experiments.detection.configs import DetectionConfig
from experiments.detection.data.config import DataConfig
from experiments.detection.data.datasets import DetectionData, open_data
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
)
from experiments.detection.task import (
    RUNS,
    initial_variables,
    make_evaluator,
    make_model,
    make_optimizer,
    read_categories,
    train_run,
)
from experiments.engine.checkpoints import CheckpointError, steps_in
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders, Folders
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import EvaluationConfig, Operation, TrainingConfig
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import few_optimizations
from tests.experiments.detection.fake_records import make_record, noise
from tests.experiments.detection.tiny import TINY, train

# CARAFE++ in the pyramid and in the mask head; images have one or two large objects.
SMALL = DetectionConfig(
    model=DetectorConfig(
        backbone=ResNetConfig(18, norm="sync_batch", width=8),
        frozen_stages=0,
        neck=FPNConfig(channels=16, upsampler="carafe"),
        anchors=TINY.model.anchors,
        training_proposals=ProposalConfig(50, 50),
        proposals=ProposalConfig(50, 50),
        box=BoxHeadConfig(features=64, detections=10),
        masks=True,
        mask=MaskHeadConfig(layers=2, features=16, upsampler="carafe"),
    ),
    data=DataConfig(
        "scenes",
        shorter=96,
        longer=96,
        flip=False,
        max_objects=2,
        mask_side=56,
        scenes=ScenesConfig("pypi", 96, 8, 2, smallest=48, largest=64, max_objects=2),
    ),
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=3e-3),
        schedule=ScheduleConfig(length=200, warmup=20, decay="cosine"),
    ),
    anchor_sampler=dataclasses.replace(TINY.anchor_sampler, count=32),
    proposal_sampler=dataclasses.replace(TINY.proposal_sampler, positives=0.5),
)


@pytest.mark.slow
def test_a_small_detector_overfits_eight_scenes(cutouts_cache, tmp_path, monkeypatch):
    data = open_data(SMALL.data, DataFolders(tmp_path, cutouts_cache))
    assert len(data.train) == 8
    # The run evaluates on the training split, so that nothing else needs to be compiled.
    seen = dataclasses.replace(data, validation=data.train)
    monkeypatch.setattr(task, "open_data", lambda *_: seen)
    train(tmp_path / "run", tmp_path, cutouts_cache, SMALL, checkpoint_every=1000)
    last = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    assert last["step"] == 200
    assert last["eval/box_AP"] > 0.8
    assert last["eval/mask_AP"] > 0.8


@pytest.mark.slow
def test_a_killed_and_resumed_run_gives_the_same_numbers(
    tiny_run, scenes_dir, cutouts_cache, tmp_path
):
    """A kill in the sixth step leaves four steps in the checkpoint and five in the log."""
    folder = tmp_path / "killed"
    shutil.copytree(tiny_run, folder)
    assert steps_in(folder / "checkpoints") == [2, 4, 6]
    shutil.rmtree(folder / "checkpoints/6")
    lines = (tiny_run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:9])
    with few_optimizations():
        train(folder, scenes_dir, cutouts_cache)
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(tiny_run / "metrics.jsonl")
    whole, resumed = (RUNS.load(run) for run in (tiny_run, folder))
    assert whole.step == resumed.step == 6
    jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)


@pytest.mark.slow
def test_a_run_logs_the_terms_of_its_loss_and_ends_with_an_evaluation(tiny_run):
    lines = read_metrics(tiny_run / "metrics.jsonl")
    parts = ("rpn_objectness", "rpn_boxes", "classes", "boxes", "masks")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for line in steps:
        assert sum(line[part] for part in parts) == pytest.approx(line["loss"], rel=1e-5)
        assert line["positives"] >= 1  # the objects are among the proposals
        assert line["learning_rate"] == pytest.approx(0.01)
    assert lines[-1]["step"] == 6
    assert 0 <= lines[-1][f"eval/{RUNS.best}"] <= 1
    assert "eval/mask/AP50" in lines[-1]
    assert read_categories(tiny_run, len(CATEGORIES)) == CATEGORIES


def test_the_model_has_the_classes_and_the_norms_of_its_config():
    assert make_model(TINY).num_classes == len(CATEGORIES) == 12
    assert make_model(TINY).axis_name is not None
    coco = DetectionConfig(data=DataConfig("coco_boxes"))
    assert make_model(coco).num_classes == 80
    assert make_model(coco).axis_name is None


def test_frozen_stages_have_no_weight_decay():
    optimizer = OptimizerConfig(name="sgd", learning_rate=1.0, momentum=0.0, weight_decay=0.5)
    training = dataclasses.replace(TINY.training, optimizer=optimizer)
    model = dataclasses.replace(TINY.model, frozen_stages=2)
    config = dataclasses.replace(TINY, model=model, training=training)
    shapes = jax.eval_shape(lambda: initial_variables(config))["params"]
    params = jax.tree.map(lambda leaf: np.ones((1,) * leaf.ndim, np.float32), shapes)
    gradient = jax.tree.map(np.zeros_like, params)
    transformation, _ = make_optimizer(config, steps_per_epoch=10)
    updates, _ = transformation.update(gradient, transformation.init(params), params)
    for path, update in jax.tree.leaves_with_path(updates):
        names = [key.key for key in path]
        frozen = names[0] == "backbone" and names[1].startswith(
            ("conv1", "bn1", "layer1", "layer2")
        )
        expected = -0.5 if update.ndim > 1 and not frozen else 0
        assert np.unique(update).tolist() == [expected], names


def test_frozen_norms_need_a_backbone(tmp_path):
    backbone = dataclasses.replace(TINY.model.backbone, norm="frozen")
    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, backbone=backbone))
    with pytest.raises(ConfigError, match=r"backbone_from.* None"):
        train_run(config, tmp_path / "run", Folders(tmp_path), Operation())
    assert not (tmp_path / "run").exists()


def test_a_bad_batch_size_is_reported_before_data_are_opened(tmp_path):
    training = dataclasses.replace(TINY.training, batch_size=6)
    with pytest.raises(ConfigError, match=r"batch_size.* 4 .* 6"):
        train_run(
            dataclasses.replace(TINY, training=training), tmp_path, Folders(tmp_path), Operation()
        )


def test_an_evaluation_of_a_missing_split_is_refused(scenes_dir, cutouts_cache):
    data = open_data(TINY.data, DataFolders(scenes_dir, cutouts_cache))
    with pytest.raises(ValueError, match=r"test.* none"):
        make_evaluator(TINY, data, EvaluationConfig(), "test")


def test_masks_are_not_evaluated_on_objects_without_them():
    records = [make_record(number, noise(30, 40), [[2, 3, 20, 20]]) for number in range(3)]
    folder = Path("prepared")
    data = DetectionData(folder, records, records, None, CATEGORIES)
    with pytest.raises(DataError, match=r"mask.*validation.* 3 "):
        make_evaluator(TINY, data, EvaluationConfig())


@pytest.mark.parametrize(
    "content",
    [
        None,
        "[",
        "7",
        "[]",
        "[" * 100_000,
        '[{"id": 1}]',
        '[{"id": "one", "name": "cup"}]',
        '[{"id": "1", "name": "cup"}]',
        '[{"id": 1.5, "name": "cup"}]',
        '[{"id": 1e999, "name": "cup"}]',
        '[{"id": 1, "name": null}]',
        '[{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}]',
    ],
)
def test_categories_that_cannot_be_read_are_reported(tmp_path, content):
    if content is not None:
        (tmp_path / "categories.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"categories\.json"):
        read_categories(tmp_path, 1)
    (tmp_path / "categories.json").write_text(json.dumps([{"id": 3, "name": "cup"}]))
    assert read_categories(tmp_path, 1) == ((3, "cup"),)
