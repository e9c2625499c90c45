import dataclasses

import pytest

from experiments.detection.model.anchors import AnchorConfig
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
)
from experiments.engine.config import ConfigError, load, save
from experiments.models.fpn import FPNConfig
from experiments.models.resnet import ResNetConfig
from experiments.resamplers import CarafeConfig

PROPOSALS = ProposalConfig(10, 5)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (PROPOSALS, {"per_level": 0}, "per_level must be at least 1, got 0"),
        (PROPOSALS, {"kept": 0}, "kept must be at least 1, got 0"),
        (PROPOSALS, {"iou_threshold": 0.0}, r"iou_threshold must be in \(0, 1\], got 0.0"),
        (PROPOSALS, {"iou_threshold": 1.1}, r"iou_threshold must be in \(0, 1\], got 1.1"),
        (BoxHeadConfig(), {"size": 0}, "size must be at least 1, got 0"),
        (BoxHeadConfig(), {"features": 0}, "features must be at least 1, got 0"),
        (BoxHeadConfig(), {"detections": 0}, "detections must be at least 1, got 0"),
        (BoxHeadConfig(), {"score_threshold": -0.1}, "score_threshold must be at least 0, got"),
        (BoxHeadConfig(), {"iou_threshold": 0.0}, r"iou_threshold must be in \(0, 1\], got 0.0"),
        (BoxHeadConfig(), {"iou_threshold": 1.1}, r"iou_threshold must be in \(0, 1\], got 1.1"),
        (MaskHeadConfig(), {"size": 0}, "size must be at least 1, got 0"),
        (MaskHeadConfig(), {"layers": -1}, "layers must be at least 0, got -1"),
        (MaskHeadConfig(), {"features": 0}, "features must be at least 1, got 0"),
        (MaskHeadConfig(), {"upsampler": "cubic"}, "upsampler must be one of .*, got 'cubic'"),
        (DetectorConfig(), {"frozen_stages": -1}, "frozen_stages must be in 0..4, got -1"),
        (DetectorConfig(), {"frozen_stages": 5}, "frozen_stages must be in 0..4, got 5"),
        (
            DetectorConfig(),
            {"backbone": ResNetConfig(output_stride=16)},
            "output_stride must be 32 for a feature pyramid, got 16",
        ),
        (
            DetectorConfig(),
            {"anchors": AnchorConfig(strides=(8, 16, 32, 64, 128))},
            r"strides must be \(4, 8, 16, 32, 64\), as those of the pyramid, got \(8, 16, 32, 64",
        ),
        (
            DetectorConfig(),
            {"neck": FPNConfig(extra_level=False)},
            r"strides must be \(4, 8, 16, 32\), as those of the pyramid, got \(4, 8, 16, 32, 64\)",
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
