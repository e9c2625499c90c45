"""Constants in files of detectron2 must be those of the run's config."""

import math

import numpy as np
import pytest

from experiments.detection.configs import DetectionConfig
from experiments.detection.conventions import with_convention
from experiments.detection.conversion.constants import check_constants
from experiments.detection.conversion.conversion import to_run
from experiments.weights.loading import WeightsError
from tests.experiments.detection.conversion.networks import detector, narrow, random_file

CONFIG = with_convention(DetectionConfig(), "detectron2").model
ANCHORS = "proposal_generator.anchor_generator.cell_anchors"
MEAN, STD = [103.53, 116.28, 123.675], [1.0, 1.0, 1.0]


def anchors(size):
    """detectron2's anchors around the origin: the area is size², the ratios are height to width."""
    sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in (0.5, 1, 2)]
    return np.float32([(-x / 2, -y / 2, x / 2, y / 2) for x, y in sides])


def constants(dtype=np.float32):
    arrays = {"pixel_mean": np.reshape(MEAN, (3, 1, 1)), "pixel_std": np.reshape(STD, (3, 1, 1))}
    for level, size in enumerate((32, 64, 128, 256, 512)):
        arrays[f"{ANCHORS}.{level}"] = anchors(size)
    return {name: array.astype(dtype) for name, array in arrays.items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_constants_of_published_files_are_those_of_the_config(dtype):
    check_constants(constants(dtype), CONFIG)
    check_constants({"backbone.x": np.zeros(1, dtype)}, CONFIG)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pixel_mean", MEAN[::-1], r"pixel_mean.*103\.53, 116\.28, 123\.675.*123\.675, 116\.28"),
        ("pixel_mean", [103.939, 116.779, 123.68], r"103\.53, .*103\.939"),
        ("pixel_mean", [math.nan] * 3, "nan"),
        ("pixel_mean", MEAN[:1], r"123\.675\].* \[103\.53\]"),
        ("pixel_std", [58.395, 57.12, 57.375], r"pixel_std.*\[1, 1, 1\].*58\.395"),
        (f"{ANCHORS}.0", anchors(16), r"cell_anchors\.0.*-16, -16, 16, 16.*-8, -8, 8, 8"),
        (f"{ANCHORS}.4", np.zeros((9, 4)), r"cell_anchors\.4 .*\.\.\.\]"),
        (f"{ANCHORS}.5", anchors(1024), r"cell_anchors\.5 must be \[\]"),
    ],
)
def test_other_constants_are_refused_with_both_values(name, value, message):
    with pytest.raises(WeightsError, match=message):
        check_constants(constants() | {name: np.array(value)}, CONFIG)


def test_a_file_with_other_constants_becomes_no_run(tmp_path):
    weights = tmp_path / "weights.safetensors"
    mean = {"pixel_mean": np.float32(MEAN[::-1])}
    random_file(weights, narrow(detector()), "detectron2", extra=mean)
    with pytest.raises(WeightsError, match="pixel_mean"):
        to_run(weights, tmp_path / "run")
    assert not (tmp_path / "run").exists()
