import dataclasses

import pytest

from experiments.detection.configs import (
    COCO_TRAINING,
    SCHEDULE_1X,
    SCHEDULE_2X,
    DetectionConfig,
)
from experiments.detection.data.config import DataConfig
from experiments.detection.model.config import DetectorConfig
from experiments.engine.config import ConfigError, load, save
from experiments.models.resnet_config import ResNetConfig

DECAYS_ALL = dataclasses.replace(
    COCO_TRAINING, optimizer=dataclasses.replace(COCO_TRAINING.optimizer, decay_all=True)
)


def test_masks_and_a_mask_head_need_each_other():
    with pytest.raises(ConfigError, match=r"mask_side.* None$"):
        DetectionConfig(model=DetectorConfig(masks=True))
    with pytest.raises(ConfigError, match=r"mask_side.* 28$"):
        DetectionConfig(data=DataConfig(mask_side=28))
    config = DetectionConfig(model=DetectorConfig(masks=True), data=DataConfig(mask_side=28))
    with pytest.raises(ConfigError, match=r"mask_side.* 28$"):
        dataclasses.replace(config, model=DetectorConfig())


def test_weight_decay_of_frozen_norms_is_refused():
    with pytest.raises(ConfigError, match=r"decay_all.* True"):
        DetectionConfig(training=DECAYS_ALL)
    for norm in ("batch", "sync_batch"):
        model = DetectorConfig(backbone=ResNetConfig(norm=norm))
        assert DetectionConfig(model=model, training=DECAYS_ALL).training is DECAYS_ALL


@pytest.mark.parametrize(("schedule", "epochs"), [(SCHEDULE_1X, 12), (SCHEDULE_2X, 24)])
def test_the_schedules_of_section_5_1(schedule, epochs):
    steps_per_epoch = 117_266 // COCO_TRAINING.batch_size
    assert schedule.steps(schedule.length, steps_per_epoch) == epochs * steps_per_epoch
    assert schedule.steps(schedule.warmup, steps_per_epoch) == 500
    assert schedule.warmup_from == 0
    assert schedule.milestones == (epochs * 2 / 3, epochs * 11 / 12)


def test_a_saved_config_is_the_same(tmp_path):
    config = DetectionConfig(
        model=DetectorConfig(masks=True),
        data=DataConfig(mask_side=112),
        backbone_from="runs/resnet50",
    )
    save(config, tmp_path / "config.json")
    assert load(DetectionConfig, tmp_path / "config.json") == config
