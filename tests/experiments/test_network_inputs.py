"""Every task normalises images as the config of its backbone says."""

import types

import jax
import numpy as np
import pytest

from experiments.classification import task as classification
from experiments.detection import losses as detection_losses
from experiments.detection import task as detection
from experiments.detection.configs import DetectionConfig
from experiments.detection.model.config import DetectorConfig
from experiments.models.input_config import InputConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.segmentation import losses as segmentation_losses
from experiments.segmentation import task as segmentation
from experiments.segmentation.configs import LossConfig
from experiments.segmentation.model.config import SegmenterConfig

INPUT = InputConfig("bgr", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
BACKBONE = ResNetConfig(50, input=INPUT)
DETECTOR = DetectorConfig(backbone=BACKBONE)
IMAGE, SIZE = np.zeros((1, 8, 8, 3), np.uint8), np.int32([[8, 8]])
STATE = {"params": {}, "model_state": {}}
OBJECTS = {"boxes": np.zeros((1, 1, 4)), "labels": np.zeros((1, 1)), "crowd": np.zeros((1, 1))}
BATCH = {"image": IMAGE, "size": SIZE, **OBJECTS}


class NormalizedError(Exception):
    """Ends the function once it has normalised its images."""


def network(config):
    return types.SimpleNamespace(config=config, apply=None, features=None)


def segmenter():
    return network(SegmenterConfig(backbone=BACKBONE))


CALLS = {
    "classify": (
        classification,
        lambda: classification.classify(network(BACKBONE), STATE, IMAGE),
    ),
    "classification loss": (
        classification,
        lambda: classification.loss_function(network(BACKBONE), {}, {}, BATCH, None),
    ),
    "detect": (
        detection,
        lambda: detection.detect(network(DETECTOR), STATE, IMAGE, SIZE),
    ),
    "detection loss": (
        detection_losses,
        lambda: detection_losses._losses(
            network(DETECTOR), DetectionConfig(model=DETECTOR), BATCH, jax.random.key(0)
        ),
    ),
    "segment": (segmentation, lambda: segmentation.segment(segmenter(), STATE, IMAGE)),
    "segmentation loss": (
        segmentation_losses,
        lambda: segmentation_losses.make_loss_function(segmenter(), LossConfig())(
            {}, {}, BATCH, jax.random.key(0)
        ),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_images_are_normalised_as_the_backbone_expects(name, monkeypatch):
    module, call = CALLS[name]

    def normalize(image, config, size=None):
        assert config == INPUT
        raise NormalizedError

    monkeypatch.setattr(module, "normalize", normalize)
    with pytest.raises(NormalizedError):
        call()
