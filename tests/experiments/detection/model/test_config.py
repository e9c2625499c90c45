import dataclasses

import pytest

from experiments.detection.model.anchors import AnchorConfig
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
    RoIAlignConfig,
)
from experiments.engine.config import ConfigError, load, save
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig

PROPOSALS = ProposalConfig(10, 5)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (PROPOSALS, {"per_level": 0}, r"per_level.* 0$"),
        (PROPOSALS, {"kept": 0}, r"kept.* 0$"),
        (PROPOSALS, {"iou_threshold": 0.0}, r"iou_threshold.* 0\.0$"),
        (PROPOSALS, {"iou_threshold": 1.1}, r"iou_threshold.* 1\.1$"),
        (PROPOSALS, {"shortest_side": -0.1}, r"shortest_side.* -0\.1$"),
        (RoIAlignConfig(), {"sampling_ratio": -1}, r"sampling_ratio.* -1$"),
        (BoxHeadConfig(), {"shortest_side": -0.1}, r"shortest_side.* -0\.1$"),
        (BoxHeadConfig(), {"size": 0}, r"size.* 0$"),
        (BoxHeadConfig(), {"features": 0}, r"features.* 0$"),
        (BoxHeadConfig(), {"detections": 0}, r"detections.* 0$"),
        (BoxHeadConfig(), {"score_threshold": -0.1}, r"score_threshold.* -0\.1$"),
        (BoxHeadConfig(), {"iou_threshold": 0.0}, r"iou_threshold.* 0\.0$"),
        (BoxHeadConfig(), {"iou_threshold": 1.1}, r"iou_threshold.* 1\.1$"),
        (MaskHeadConfig(), {"size": 0}, r"size.* 0$"),
        (MaskHeadConfig(), {"layers": -1}, r"layers.* -1$"),
        (MaskHeadConfig(), {"features": 0}, r"features.* 0$"),
        (MaskHeadConfig(), {"upsampler": "cubic"}, r"upsampler.*'carafe'.*'cubic'"),
        (MaskHeadConfig(), {"upsampler": "fade"}, r"upsampler.*'dysample'.*'fade'"),
        (DetectorConfig(), {"frozen_stages": -1}, r"frozen_stages.* -1$"),
        (DetectorConfig(), {"frozen_stages": 5}, r"frozen_stages.* 5$"),
        (
            DetectorConfig(),
            {"backbone": ResNetConfig(output_stride=16)},
            r"output_stride.* 32 .* 16$",
        ),
        (
            DetectorConfig(),
            {"anchors": AnchorConfig(strides=(8, 16, 32, 64, 128))},
            r"strides.*\(4, 8, 16, 32, 64\).*\(8, 16, 32, 64, 128\)",
        ),
        (
            DetectorConfig(),
            {"neck": FPNConfig(extra_level=False)},
            r"strides.*\(4, 8, 16, 32\).*\(4, 8, 16, 32, 64\)",
        ),
    ],
)
def test_bad_configs(config, fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(config, **fields)


def test_a_pyramid_without_p6():
    strides = (4, 8, 16, 32)
    DetectorConfig(neck=FPNConfig(extra_level=False), anchors=AnchorConfig(strides=strides))


def test_the_papers_detector_is_the_default():
    config = DetectorConfig()
    assert (config.backbone.depth, config.backbone.norm, config.frozen_stages) == (50, "frozen", 1)
    assert (config.training_proposals.kept, config.proposals.kept) == (2000, 1000)
    assert (config.box.size, config.box.features, config.box.detections) == (7, 1024, 100)
    assert (config.mask.size, config.mask.layers, config.mask.features) == (14, 4, 256)


def test_a_saved_config_is_the_same(tmp_path):
    config = DetectorConfig(
        masks=True, mask=MaskHeadConfig(upsampler="carafe", carafe=CarafeConfig(None))
    )
    save(config, tmp_path / "config.json")
    assert load(DetectorConfig, tmp_path / "config.json") == config
