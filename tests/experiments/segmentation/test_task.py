import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.classification import task as classification
from experiments.classification.configs import ClassificationConfig
from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, Checkpoints
from experiments.engine.claim import CONVERTED
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders, Folders
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.settings import Operation, TrainingConfig
from experiments.engine.step import first_carry
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation import task
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.task import (
    RUNS,
    initial_variables,
    make_model,
    read_class_names,
    train_run,
)
from tests.experiments.segmentation.tiny import TINY, train

# CARAFE++ in all places; images have one or two large objects.
SMALL = SegmentationConfig(
    model=dataclasses.replace(
        TINY.model,
        backbone=ResNetConfig(18, "carafe", norm="batch", width=8, stem="deep"),
        norm="batch",
        channels=16,
        ppm="carafe",
        fuse="carafe",
        auxiliary=False,
    ),
    data=dataclasses.replace(
        TINY.data,
        scenes=dataclasses.replace(
            TINY.data.scenes,
            longer_side=128,
            training_images=16,
            validation_images=2,
            smallest=64,
            largest=96,
        ),
        # Multiples of 32: images are neither scaled nor padded.
        shorter_sides=(96,),
        longer=128,
        test_shorter=96,
        flip=False,
    ),
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=5e-3),
        schedule=ScheduleConfig(length=300, warmup=20, decay="poly"),
    ),
    pretrained=False,
)


@pytest.mark.slow
def test_a_small_network_overfits_eight_scenes(cutouts_cache, tmp_path, monkeypatch):
    data = open_data(SMALL.data, DataFolders(tmp_path, cutouts_cache))
    height, width = data.sizes["train"].T
    # Statistics are those of all images, on all devices: running averages of few would not fit.
    landscapes = np.flatnonzero(height < width)[:8]
    assert len(landscapes) == 8
    chosen = [data.train[number] for number in landscapes]
    sizes = dict.fromkeys(data.sizes, data.sizes["train"][landscapes])
    seen = dataclasses.replace(data, train=chosen, validation=chosen, sizes=sizes)
    monkeypatch.setattr(task, "open_data", lambda *_: seen)
    backbone = dataclasses.replace(SMALL.model.backbone, norm="sync_batch")
    model = dataclasses.replace(SMALL.model, backbone=backbone, norm="sync_batch")
    config = dataclasses.replace(SMALL, model=model)
    train(tmp_path / "run", tmp_path, cutouts_cache, config, checkpoint_every=1000)
    last = read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    assert last["step"] == 300
    assert last["eval/mIoU_present"] > 0.9
    assert last["eval/pixel_accuracy"] > 0.95


@pytest.mark.slow
def test_a_run_logs_the_parts_of_its_loss_and_ends_with_an_evaluation(tiny_run):
    lines = read_metrics(tiny_run / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    for line in steps:
        assert 0 < 0.4 * line["auxiliary"] < line["loss"]
        assert 0 <= line["accuracy"] <= 1
    rates = [line["learning_rate"] for line in steps]
    np.testing.assert_allclose(rates, [0.01 * (1 - n / 6) ** 0.9 for n in range(6)], rtol=1e-5)
    assert lines[-1]["step"] == 6
    assert 0 <= lines[-1]["eval/mIoU"] <= lines[-1]["eval/mIoU_present"] <= 1
    assert "eval/IoU/other" in lines[-1]
    names = read_class_names(tiny_run, 13)
    assert names[0] == "other"
    assert len(names) == 13


def test_the_model_has_the_classes_and_the_norms_of_its_config():
    assert make_model(TINY).num_classes == 13
    assert make_model(TINY).axis_name is not None
    assert make_model(SegmentationConfig()).num_classes == 150
    model = dataclasses.replace(SMALL.model, norm="sync_batch")
    for config, synchronised in ((SMALL, False), (dataclasses.replace(SMALL, model=model), True)):
        assert (make_model(config).axis_name is not None) == synchronised


def test_a_bad_batch_size_is_reported_before_data_are_opened(tmp_path):
    training = dataclasses.replace(TINY.training, batch_size=6)
    with pytest.raises(ConfigError, match=r"batch_size.* 4 .* 6"):
        train_run(
            dataclasses.replace(TINY, training=training), tmp_path, Folders(tmp_path), Operation()
        )


def test_a_run_starts_from_its_backbone_and_resumes_without_it(
    scenes_dir, cutouts_cache, tmp_path, monkeypatch
):
    def drawn(shapes, seed):
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(np.float32), shapes)

    classifier = ClassificationConfig(model=dataclasses.replace(TINY.model.backbone, norm="batch"))
    trained = drawn(jax.eval_shape(lambda: classification.initial_variables(classifier)), 1)
    folder = tmp_path / "classifier"
    carry = first_carry(classification.training_state(classifier, trained), 0)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    checkpoints.save(0, jax.device_get(carry), None, {"seconds": 0.0})
    checkpoints.close()
    configs.save(classifier, folder / "config.json")
    (folder / CONVERTED).write_text("{}")

    variables = drawn(jax.eval_shape(lambda: initial_variables(TINY)), 0)
    started = []
    monkeypatch.setattr(
        task, "train", lambda folder, config, training, task, _: started.append(task)
    )
    monkeypatch.setattr(task, "initial_variables", lambda config: variables)
    config = dataclasses.replace(TINY, pretrained=True, backbone_from=str(folder))
    rest = tmp_path / "run", Folders(scenes_dir, cutouts_cache), Operation()
    train_run(config, *rest)
    state = started[0].state
    for found, right in (
        (state["params"]["backbone"]["conv3"], trained["params"]["conv3"]),
        (state["model_state"]["backbone"], trained["batch_stats"]),
        (state["params"]["head"], variables["params"]["head"]),
        (state["model_state"]["head"], variables["batch_stats"]["head"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, right)
    # A run with a checkpoint no longer needs the classifier.
    (rest[0] / CHECKPOINTS / "4").mkdir(parents=True)
    train_run(dataclasses.replace(config, backbone_from=str(tmp_path / "gone")), *rest)
    assert jax.tree.structure(started[1].state) == jax.tree.structure(state)


@pytest.mark.parametrize("content", [None, "[", "7", "[]", '["cup", 3]', '["cup", "cat"]'])
def test_names_of_classes_that_cannot_be_read_are_reported(tmp_path, content):
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"classes\.json"):
        read_class_names(tmp_path, 1)
    (tmp_path / "classes.json").write_text(json.dumps(["cup"]))
    assert read_class_names(tmp_path, 1) == ("cup",)


def test_the_best_checkpoint_has_the_highest_miou():
    assert RUNS.best == "mIoU"
