import dataclasses
import functools
import shutil

import jax
import numpy as np
import pytest

from experiments.classification import task as classification
from experiments.classification.backbone import check_backbone, with_backbone
from experiments.classification.configs import ClassificationConfig
from experiments.detection import task
from experiments.detection.task import initial_variables, train_run
from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError, Checkpoints
from experiments.engine.claim import CONVERTED, FINISHED
from experiments.engine.config import ConfigError
from experiments.engine.folders import Folders
from experiments.engine.settings import Operation
from experiments.engine.step import first_carry
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import BLOCKS, ResNetConfig
from tests.experiments.detection.tiny import TINY

CLASSIFIER = ClassificationConfig(model=ResNetConfig(18, norm="batch", width=2))
FROZEN = dataclasses.replace(TINY.model.backbone, norm="frozen")


def drawn(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.uniform(0.5, 1, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def variables():
    return drawn(jax.eval_shape(lambda: initial_variables(TINY)), seed=0)


@pytest.fixture(scope="module")
def trained():
    """Variables of a classifier."""
    return drawn(jax.eval_shape(lambda: classification.initial_variables(CLASSIFIER)), seed=1)


def write_run(folder, config, variables):
    """Writes a classification run with these variables and without training steps."""
    carry = first_carry(classification.training_state(config, variables), 0)
    checkpoints = Checkpoints(folder / CHECKPOINTS)
    checkpoints.save(0, jax.device_get(carry), None, {"seconds": 0.0})
    checkpoints.close()
    configs.save(config, folder / "config.json")
    (folder / CONVERTED).write_text("{}")
    return folder


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("classifier"), CLASSIFIER, trained)


def variables_of(config, seed=0):
    """Variables of a classifier, and of a backbone, which lacks the last layer."""
    model = ResNet(config, None if config.norm == "frozen" else 1000)
    method = "features" if config.norm == "frozen" else None
    x = np.zeros((1, 64, 64, 3), np.float32)
    init = functools.partial(model.init, method=method)
    return drawn(jax.eval_shape(init, jax.random.key(0), x), seed)


@pytest.mark.parametrize("norm", ["batch", "sync_batch", "frozen"])
def test_the_network_of_a_classifier_replaces_the_backbone_only(variables, trained, folder, norm):
    backbone = dataclasses.replace(TINY.model.backbone, norm=norm)
    found = with_backbone(variables, folder, backbone)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for collection in ("params", "batch_stats"):
        expected = {name: leaf for name, leaf in trained[collection].items() if name != "fc"}
        jax.tree.map(np.testing.assert_array_equal, found[collection]["backbone"], expected)
    for name in ("neck", "rpn", "box_head", "mask_head"):
        jax.tree.map(
            np.testing.assert_array_equal, found["params"][name], variables["params"][name]
        )


@pytest.fixture
def shallow(monkeypatch):
    """A ResNet-50 with one block in each stage, which is traced in less time."""
    monkeypatch.setitem(BLOCKS, 50, (1, 1, 1, 1))


@pytest.mark.usefixtures("shallow")
def test_a_deformable_backbone_starts_from_the_run_of_the_plain_network(tmp_path):
    """The convolutions that predict offsets and masks keep their initial zeros."""
    plain = ResNetConfig(50, norm="batch", width=2)
    backbone = dataclasses.replace(
        plain, norm="frozen", deformable_stages=(False, False, False, True), deformable_groups=2
    )
    weights = variables_of(plain)
    write_run(tmp_path, dataclasses.replace(CLASSIFIER, model=plain), weights)
    network = variables_of(backbone)
    variables = {name: {"backbone": tree} for name, tree in network.items()}
    predictors = jax.tree.map(np.zeros_like, network["params"]["layer4_0"]["conv2"]["conv_offset"])
    variables["params"]["backbone"]["layer4_0"]["conv2"]["conv_offset"] = predictors

    check_backbone(tmp_path, backbone)
    found = with_backbone(variables, tmp_path, backbone)
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    conv2 = found["params"]["backbone"]["layer4_0"]["conv2"]
    np.testing.assert_array_equal(conv2["kernel"], weights["params"]["layer4_0"]["conv2"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, conv2["conv_offset"], predictors)
    jax.tree.map(
        np.testing.assert_array_equal, found["batch_stats"]["backbone"], weights["batch_stats"]
    )


@pytest.mark.usefixtures("shallow")
def test_a_deformable_backbone_starts_from_the_run_of_the_same_network(tmp_path):
    backbone = ResNetConfig(
        50, norm="frozen", width=2, deformable_stages=(False, False, False, True)
    )
    trained = dataclasses.replace(backbone, norm="batch")
    weights = variables_of(trained, seed=1)
    write_run(tmp_path, dataclasses.replace(CLASSIFIER, model=trained), weights)
    variables = {name: {"backbone": tree} for name, tree in variables_of(backbone).items()}
    found = with_backbone(variables, tmp_path, backbone)
    params = {name: tree for name, tree in weights["params"].items() if name != "fc"}
    jax.tree.map(np.testing.assert_array_equal, found["params"]["backbone"], params)


def test_a_run_with_other_deformable_stages_is_refused(tmp_path):
    trained = ResNetConfig(50, width=2, deformable_stages=(False, False, False, True))
    configs.save(dataclasses.replace(CLASSIFIER, model=trained), tmp_path / "config.json")
    backbone = dataclasses.replace(trained, norm="frozen")
    other = dataclasses.replace(backbone, deformable_stages=(False, False, True, True))
    with pytest.raises(ConfigError, match=r"backbone_from.*deformable_stages: \(False, False, Fal"):
        check_backbone(tmp_path, other)
    with pytest.raises(ConfigError, match=r"backbone_from.*deformable_stages: \(False, False, Fal"):
        check_backbone(tmp_path, dataclasses.replace(backbone, deformable_stages=(False,) * 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 4}, r"model\.backbone\.width: 2 -> 4"),
        ({"depth": 50}, r"model\.backbone\.depth: 18 -> 50"),
        (
            {"depth": 50, "deformable_stages": (False, True, True, True)},
            r"model\.backbone\.depth: 18 -> 50",
        ),
        ({"downsampler": "carafe"}, r"model\.backbone\.downsampler: 'strided' -> 'carafe'"),
    ],
)
def test_a_different_network_is_refused_with_the_name_of_its_field(
    variables, folder, change, message
):
    backbone = dataclasses.replace(FROZEN, **change)
    with pytest.raises(ConfigError, match="backbone_from.*" + message):
        with_backbone(variables, folder, backbone)


def test_a_folder_without_a_finished_classification_run_is_refused(variables, folder, tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        with_backbone(variables, tmp_path, FROZEN)
    configs.save(TINY, tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*classification"):
        with_backbone(variables, tmp_path, FROZEN)
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=f"{tmp_path} has not been trained to its end"):
        with_backbone(variables, tmp_path, FROZEN)
    (tmp_path / CONVERTED).write_text("{}")
    (tmp_path / CHECKPOINTS / "7").mkdir(parents=True)  # converted, and then trained on
    with pytest.raises(CheckpointError, match=f"{tmp_path} has not been trained to its end"):
        with_backbone(variables, tmp_path, FROZEN)
    shutil.rmtree(tmp_path / CHECKPOINTS)
    (tmp_path / FINISHED).write_text("{}")
    with pytest.raises(CheckpointError, match=f"{tmp_path}/checkpoints"):
        with_backbone(variables, tmp_path, FROZEN)


@pytest.fixture
def started(monkeypatch, variables):
    """The tasks that would be trained."""
    tasks = []
    monkeypatch.setattr(task, "train", lambda folder, config, training, task, _: tasks.append(task))
    monkeypatch.setattr(task, "initial_variables", lambda config: variables)
    return tasks


def test_a_run_starts_from_its_backbone_and_resumes_without_it(
    started, variables, trained, folder, scenes_dir, cutouts_cache, tmp_path
):
    config = dataclasses.replace(
        TINY,
        model=dataclasses.replace(TINY.model, backbone=FROZEN),
        backbone_from=str(folder),
    )
    arguments = config, tmp_path, Folders(scenes_dir, cutouts_cache), Operation()
    train_run(*arguments)
    state = started[0].state
    for found, right in (
        (state["params"]["backbone"]["conv1"], trained["params"]["conv1"]),
        (state["model_state"]["batch_stats"]["backbone"], trained["batch_stats"]),
        (state["params"]["neck"], variables["params"]["neck"]),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, right)
    # A run with a checkpoint no longer needs the classifier.
    (tmp_path / CHECKPOINTS / "4").mkdir(parents=True)
    gone = dataclasses.replace(config, backbone_from=str(tmp_path / "gone"))
    train_run(gone, *arguments[1:])
    assert jax.tree.structure(started[1].state) == jax.tree.structure(state)
