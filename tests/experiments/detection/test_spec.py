import dataclasses
import itertools
import json

import jax
import pytest

from experiments.classification import spec as classification
from experiments.classification.backbone import backbone_folder
from experiments.classification.presets import PRESETS as CLASSIFIERS
from experiments.detection.configs import DetectionConfig
from experiments.detection.presets import EXPERIMENTS, PRESETS
from experiments.detection.spec import SPEC, cost_of, resized, step_seconds
from experiments.engine import config as configs
from experiments.engine.checkpoints import CHECKPOINTS, CheckpointError
from experiments.engine.config import ConfigError
from experiments.engine.folders import Folders
from experiments.engine.runs import preset_of
from experiments.engine.tables.cost import Cost
from experiments.engine.tables.experiment import run_experiment
from experiments.models.resnet_config import ResNetConfig
from tests.experiments.detection.tiny import TINY

COCO_TABLES = [table for table in EXPERIMENTS if table.startswith("table")]


def test_costs_grow_with_the_number_of_boxes_and_the_size_of_the_image():
    found = cost_of(TINY)
    model = TINY.model
    more = dataclasses.replace(model, proposals=dataclasses.replace(model.proposals, kept=32))
    higher = cost_of(dataclasses.replace(TINY, model=more))
    assert higher.parameters == found.parameters
    # 16 more boxes cost at least the products of the box head.
    features, classes = model.box.features, 12
    products = 49 * 4 * features + features**2 + features * (classes + 1 + 4 * classes)
    assert higher.flops - found.flops > 16 * 2 * products
    wider = dataclasses.replace(TINY.data, longer=128)
    assert cost_of(dataclasses.replace(TINY, data=wider)).flops > 1.3 * found.flops


def test_a_resized_config_keeps_the_shape_of_its_images():
    config = EXPERIMENTS["table4"].presets[0].config
    changed = configs.differences(config, resized(config, 400))
    assert changed == ["data.shorter: 800 -> 400", "data.longer: 1333 -> 666"]


@pytest.mark.slow
def test_a_training_step_and_an_inference_are_timed():
    training, inference = step_seconds(TINY, jax.device_count())
    assert training > 0
    assert inference > 0


def test_the_backbone_of_every_row_is_a_preset_of_the_classification_task(tmp_path):
    known = {preset.name: preset.config.model for preset in CLASSIFIERS}
    used = set()
    for preset in itertools.chain(*(EXPERIMENTS[table].presets for table in COCO_TABLES)):
        backbone = preset.config.model.backbone
        folder = backbone_folder(backbone, preset.config.backbone_from, tmp_path)
        name, _, seed = folder.name.rpartition("-seed")
        assert (folder.parent, seed) == (tmp_path / "classification", "0")
        plain = dataclasses.replace(backbone, deformable_stages=(False,) * 4)
        assert dataclasses.replace(known[name], norm=backbone.norm) == plain
        used.add(name)
    names = {f"table2-resnet{depth}{suffix}" for depth in (50, 101) for suffix in ("", "-carafe")}
    assert used == names | {
        f"table3-resnet50-{name}" for name in ("max-pool", "avg-pool", "dpp", "lip")
    }


def test_equal_rows_of_several_tables_share_one_run():
    names = {
        table: [preset_of(row.config, PRESETS).name for row in EXPERIMENTS[table].presets]
        for table in COCO_TABLES
    }
    assert names["table4"][0] == names["table5"][0] == "table3-strided"
    assert names["table11"][2] == names["table13"][3] == names["table14"][2] == "table4-carafe"
    assert names["table7"][0] == "table6-deconvolution"
    assert names["table1"] == [row.name for row in EXPERIMENTS["table1"].presets]


def test_backbones_are_found_in_the_runs_of_the_classification_tables(tmp_path, monkeypatch):
    """Runs classification's Tables 2 and 3, then detection's Table 3, without arguments."""
    monkeypatch.chdir(tmp_path)
    trained, backbones = [], set()

    def train(metric):
        def train(config, folder, folders, operation):
            if isinstance(config, DetectionConfig):
                backbone = backbone_folder(
                    config.model.backbone, config.backbone_from, folders.runs
                )
                assert json.loads((backbone / "config.json").read_text())
                backbones.add(backbone)
            trained.append(config)
            folder.mkdir(parents=True, exist_ok=True)
            configs.save(config, folder / "config.json")
            (folder / "finished.json").write_text("{}")
            (folder / "metrics.jsonl").write_text(f'{{"step": 1, "eval/{metric}": 0.5}}\n')

        return train

    free = {"cost": lambda config: Cost(1, 1)}
    classifiers = dataclasses.replace(classification.SPEC, train=train("top1"), **free)
    detectors = dataclasses.replace(SPEC, train=train("box_AP"), **free)
    run_experiment(classifiers, "table2")
    run_experiment(classifiers, "table3")
    trained.clear()
    run_experiment(detectors, "table3")
    assert len(trained) == 6
    assert len(backbones) == 6
    table = (tmp_path / "runs/detection/table3/table.md").read_text()
    assert table.count("| 50.0 |") == 6
    assert "box AP 38.8 %, 12.1 fps" in table


def test_a_config_does_not_depend_on_the_runs_folder_and_a_started_run_needs_no_backbone(tmp_path):
    config = EXPERIMENTS["table3"].presets[0].config
    started = tmp_path / "run"
    (started / CHECKPOINTS / "4").mkdir(parents=True)
    for runs in (tmp_path, tmp_path / "moved"):
        assert SPEC.prepare_config(config, started, Folders(runs=runs)) == config
    named = dataclasses.replace(config, backbone_from="other")
    assert SPEC.prepare_config(named, started, Folders()) == named
    small = EXPERIMENTS["scenes-cpu"].presets[0].config
    assert SPEC.prepare_config(small, tmp_path, Folders()) == small


def test_a_missing_backbone_is_reported_with_the_command_that_trains_it(tmp_path):
    config = EXPERIMENTS["table3"].presets[3].config
    with pytest.raises(CheckpointError, match=r"backbone_from.*train table3-resnet50-dpp"):
        SPEC.prepare_config(config, tmp_path / "run", Folders(runs=tmp_path))
    # A network that is only trained on another dataset is not a backbone.
    model = dataclasses.replace(config.model, backbone=ResNetConfig(18, norm="frozen"))
    with pytest.raises(ConfigError, match="backbone_from"):
        SPEC.prepare_config(
            dataclasses.replace(config, model=model), tmp_path, Folders(runs=tmp_path)
        )
