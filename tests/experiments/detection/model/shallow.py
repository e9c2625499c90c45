"""A detector whose feature pyramid consists of means of pixels, which compiles quickly."""

import jax.numpy as jnp
import numpy as np

from experiments.detection.model.anchors import AnchorConfig
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
)
from experiments.detection.model.detector import Detector
from tests.experiments.variables import scaled_variables

CLASSES = 3
PROPOSALS = 24
# The ratios have integer square roots, so that anchors and ties are exact in float32.
CONFIG = DetectorConfig(
    anchors=AnchorConfig(scale=2.0, ratios=(0.25, 1.0, 4.0)),
    training_proposals=ProposalConfig(16, PROPOSALS),
    proposals=ProposalConfig(16, PROPOSALS),
    box=BoxHeadConfig(size=2, features=8, detections=10),
    masks=True,
    mask=MaskHeadConfig(size=2, layers=1, features=4, upsampler="nearest"),
)


class Shallow(Detector):
    """A detector with RPN and heads, but without backbone and neck."""

    def features(self, image, train=False):
        batch, height, width, channels = image.shape
        levels = []
        for stride in self.config.anchors.strides:
            cells = (batch, height // stride, stride, width // stride, stride, channels)
            mean = image.reshape(cells).mean(axis=(2, 4))
            levels.append(jnp.concatenate([mean, mean[..., :1] * mean[..., 1:2]], axis=-1))
        return tuple(levels)


def random_variables(model):
    """Random values for all parameters, including those that training initialises with zeros."""
    return scaled_variables(model, np.zeros((1, 64, 64, 3), np.float32), method="layers")


def random_images(seed=0):
    """Two images of 64x64 pixels, with squares of constant colour and some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 220, (2, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (coarse + rng.integers(0, 36, coarse.shape)).astype(np.uint8)
