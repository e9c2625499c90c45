"""Compares with the evaluation transforms of torchvision and timm."""

import importlib

import numpy as np
import pytest
from PIL import Image

from experiments.classification.data_config import DataConfig
from experiments.classification.images import evaluation_crop
from experiments.data.composed.photographs import pypi_photographs

# Side of the crop, and length to which the shorter side is scaled: of torchvision's weights V1 and
# V2, and of timm's with crop_pct 0.95 at 224 and 288.
CONFIGS = [
    DataConfig(),
    DataConfig(eval_resize=232),
    DataConfig(eval_resize=235, interpolation="bicubic"),
    DataConfig(image_side=288, eval_resize=303, interpolation="bicubic"),
]


def of_torchvision(image, config):
    transforms = importlib.import_module("torchvision.transforms")
    mode = transforms.InterpolationMode(config.interpolation)
    cropped = transforms.CenterCrop(config.image_side)(
        transforms.Resize(config.eval_resize, interpolation=mode)(image)
    )
    return np.asarray(cropped)


def of_timm(image, config):
    transform = importlib.import_module("timm.data").create_transform(
        config.image_side,
        crop_pct=config.image_side / config.eval_resize,
        interpolation=config.interpolation,
        mean=(0, 0, 0),
        std=(1 / 255,) * 3,
    )
    return transform(image).numpy().transpose(1, 2, 0).round().astype(np.uint8)


@pytest.mark.torch
@pytest.mark.parametrize("expected", [of_torchvision, of_timm])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.eval_resize))
@pytest.mark.parametrize("number", range(7))
def test_the_evaluation_crop_equals_theirs_exactly(number, config, expected):
    with Image.open(pypi_photographs()[number].path) as opened:
        photograph = opened.convert("RGB")
    for size in (photograph.size, (256, 256), (500, 375), (333, 500), (225, 300)):
        image = photograph.resize(size)
        np.testing.assert_array_equal(evaluation_crop(image, config), expected(image, config))
