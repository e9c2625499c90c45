"""The rows of Tables 2, 3 and 12, the backbones of Table 8, and presets for two small datasets."""

import dataclasses
from typing import Any

from experiments.classification.configs import IMAGENET_TRAINING, ClassificationConfig
from experiments.classification.data_config import DataConfig
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import (
    Catalogue,
    Comparison,
    Experiment,
    Metric,
    Preset,
    Scores,
    at_learning_rates,
    compared_with,
)
from experiments.engine.settings import Operation, TrainingConfig
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.methods import Downsampler

ClassificationPreset = Preset[ClassificationConfig]

METRICS = (
    Metric("top1", "top-1", "%", factor=100),
    Metric("top5", "top-5", "%", factor=100),
)

# Names of the downsamplers in Table 3.
_DOWNSAMPLERS: dict[Downsampler, str] = {
    "strided": "Conv",
    "max_pool": "Max Pool",
    "avg_pool": "Avg Pool",
    "dpp": "DPP",
    "lip": "LIP",
    "carafe": "CARAFE++",
}


def _accuracy(top1: float, top5: float) -> Scores:
    return {"top1": top1, "top5": top5}


# In Table 2 and in Table 12.
_RESNET_50_CARAFE = _accuracy(77.46, 93.63)
# Scores by the number of compressed channels C_m.
_TABLE_12 = {
    4: _accuracy(77.31, 93.59),
    8: _accuracy(77.43, 93.63),
    16: _RESNET_50_CARAFE,
    32: _accuracy(77.40, 93.60),
    64: _accuracy(77.46, 93.67),
}

_DIGITS = ClassificationConfig(
    model=ResNetConfig(depth=18, width=16),
    data=DataConfig("digits", 32, 32, "pad_crop", flip=False),
    training=TrainingConfig(
        batch_size=64,
        optimizer=OptimizerConfig(learning_rate=0.05, nesterov=True, weight_decay=1e-4),
        schedule=ScheduleConfig(length=8, unit="epoch", warmup=1, decay="cosine"),
    ),
)
# `cutouts-rates` tries these learning rates for three downsamplers.
_CUTOUTS_RATES = (0.0125, 0.025, 0.05, 0.1, 0.2)
# The one with the highest mean accuracy of the three; all rows have it.
_CUTOUTS_RATE = 0.1
# Small enough for many seeds on a CPU.
_CUTOUTS_CPU = dataclasses.replace(
    _DIGITS,
    data=DataConfig("cutouts", 64, 64, "inception", smallest_area=0.4),
    training=dataclasses.replace(
        _DIGITS.training, schedule=ScheduleConfig(length=4, unit="epoch", warmup=1, decay="cosine")
    ),
).with_learning_rate(_CUTOUTS_RATE)
# The smallest width at which strided downsampling has at least as many parameters and operations as
# CARAFE++ at width 16.
_WIDTH_OF_EQUAL_COST = 18
_CUTOUTS = ClassificationConfig(
    model=ResNetConfig(depth=18),
    data=DataConfig("cutouts", 96, 96, "inception", smallest_area=0.4),
    training=dataclasses.replace(
        IMAGENET_TRAINING,
        batch_size=256,
        workers=2,
        schedule=ScheduleConfig(length=60, unit="epoch", warmup=5, decay="cosine"),
    ),
)


def _imagenet(
    name: str, row: str, model: ResNetConfig, paper: Scores, note: str = ""
) -> ClassificationPreset:
    return Preset(name, row, ClassificationConfig(model=model), paper, note)


TABLE_2 = (
    _imagenet("table2-resnet50", "Table 2, ResNet-50", ResNetConfig(50), _accuracy(76.43, 93.21)),
    _imagenet(
        "table2-resnet50-carafe",
        "Table 2, ResNet-50 w/ CARAFE++",
        ResNetConfig(50, "carafe"),
        _RESNET_50_CARAFE,
    ),
    _imagenet(
        "table2-resnet101", "Table 2, ResNet-101", ResNetConfig(101), _accuracy(78.10, 93.92)
    ),
    _imagenet(
        "table2-resnet101-carafe",
        "Table 2, ResNet-101 w/ CARAFE++",
        ResNetConfig(101, "carafe"),
        _accuracy(78.70, 94.31),
    ),
)
TABLE_3 = tuple(
    _imagenet(
        f"table3-resnet50-{method.replace('_', '-')}",
        f"Table 3, backbone {name}",
        ResNetConfig(50, method),
        {},
        "gives the AP of a detector with this backbone, not its accuracy",
    )
    for method, name in _DOWNSAMPLERS.items()
)
TABLE_12 = tuple(
    _imagenet(
        f"table12-resnet50-c{channels}",
        f"Table 12, C_m = {channels}",
        ResNetConfig(50, "carafe", compressed_channels=channels),
        scores,
    )
    for channels, scores in _TABLE_12.items()
)
# The backbones of UperNet, PSPNet and PSANet; the paper does not give their accuracy.
_SEGMENTATION_NOTE = "gives the mIoU of a network with this backbone, not its accuracy"
TABLE_8 = tuple(
    _imagenet(
        f"table8-resnet{model.depth}{'-carafe' * (model.downsampler == 'carafe')}",
        f"Table 8, backbone ResNet-{model.depth}{' w/ CARAFE++' * (model.downsampler == 'carafe')}",
        model,
        {},
        _SEGMENTATION_NOTE,
    )
    for model in (
        ResNetConfig(50, stem="deep"),
        ResNetConfig(50, "carafe", stem="deep"),
        ResNetConfig(101, stem="deep"),
        ResNetConfig(101, "carafe", stem="deep"),
    )
)
MMSEG = (
    _imagenet(
        "mmseg-resnet50-v1c",
        "mmseg, backbone ResNet-50-V1c",
        ResNetConfig(50, stem="v1c"),
        {},
        "none: no backbone of the paper",
    ),
    _imagenet(
        "mmseg-resnet50-v1c-carafe",
        "mmseg, backbone ResNet-50-V1c w/ CARAFE++",
        ResNetConfig(50, "carafe", stem="v1c"),
        {},
        "none: no backbone of the paper",
    ),
)
SMALL = tuple(
    Preset(
        f"{config.data.source}-resnet18-{method.replace('_', '-')}",
        f"{config.data.source.capitalize()}, ResNet-18, {name}",
        dataclasses.replace(config, model=dataclasses.replace(config.model, downsampler=method)),
        paper_note="none: another dataset",
    )
    for config in (_DIGITS, _CUTOUTS)
    for method, name in _DOWNSAMPLERS.items()
)
_OTHER_DATA = "none: another dataset"


def _cutouts_cpu(name: str, row: str, **changes: Any) -> ClassificationPreset:
    model = dataclasses.replace(_CUTOUTS_CPU.model, **changes)
    config = dataclasses.replace(_CUTOUTS_CPU, model=model)
    return Preset(f"cutouts-cpu-{name}", f"Cutouts, {row}", config, paper_note=_OTHER_DATA)


def _larger(preset: ClassificationPreset, side: int) -> ClassificationPreset:
    """Returns the preset with images of ``side`` x ``side`` pixels."""
    data = dataclasses.replace(preset.config.data, image_side=side, eval_resize=side)
    config = dataclasses.replace(preset.config, data=data)
    name, row = f"{preset.name}-{side}", f"{preset.row}, {side} pixels"
    return Preset(name, row, config, paper_note=_OTHER_DATA)


CUTOUTS_CPU = (
    *(
        _cutouts_cpu(method.replace("_", "-"), name, downsampler=method)
        for method, name in _DOWNSAMPLERS.items()
    ),
    _cutouts_cpu("strided-wide", "Conv, wide", width=_WIDTH_OF_EQUAL_COST),
)
_BY_ROW = {preset.name.removeprefix("cutouts-cpu-"): preset for preset in CUTOUTS_CPU}
# Are the maps of images of 64 pixels too small for kernels of 5x5? Only the size of the images
# changes; the learning rate is the same.
CUTOUTS_96 = tuple(
    _larger(_BY_ROW[row], 96) for row in ("strided", "max-pool", "carafe", "strided-wide")
)
CUTOUTS_TABLE_12 = tuple(
    _cutouts_cpu(
        f"c{channels}",
        f"CARAFE++, C_m = {channels}",
        downsampler="carafe",
        compressed_channels=channels,
    )
    for channels in _TABLE_12
)
CUTOUTS_RATES = at_learning_rates(
    [_BY_ROW[row] for row in ("strided", "max-pool", "carafe")], _CUTOUTS_RATES
)
# An epoch of 12,000 images in batches of 64.
_EVERY_EPOCH = Operation(checkpoint_every=187, evaluate_every=187)
EXPERIMENTS = {
    "table2": Experiment("Table 2, ImageNet", TABLE_2),
    "table3": Experiment("The backbones of Table 3, ImageNet", TABLE_3),
    "table8": Experiment("The backbones of Table 8, ImageNet", TABLE_8),
    "table12": Experiment("Table 12, ImageNet", TABLE_12),
    "cutouts-cpu": Experiment(
        "Small version of Table 3, cut-out objects, with a widened baseline",
        CUTOUTS_CPU,
        (0, 1, 2, 3, 4),
        _EVERY_EPOCH,
        (
            *compared_with(CUTOUTS_CPU[0], CUTOUTS_CPU),
            Comparison("cutouts-cpu-carafe", "cutouts-cpu-strided-wide"),
            # Both start as box filters.
            Comparison("cutouts-cpu-carafe", "cutouts-cpu-avg-pool"),
        ),
    ),
    "cutouts-96": Experiment(
        "Four rows of cutouts-cpu with images of 96x96 pixels",
        CUTOUTS_96,
        (0, 1, 2),
        _EVERY_EPOCH,
        (
            *compared_with(CUTOUTS_96[0], CUTOUTS_96),
            Comparison("cutouts-cpu-carafe-96", "cutouts-cpu-strided-wide-96"),
        ),
    ),
    "cutouts-table12": Experiment(
        "Small version of Table 12, cut-out objects",
        CUTOUTS_TABLE_12,
        (0, 1, 2),
        _EVERY_EPOCH,
        # With the number of channels of the other tables.
        compared_with(
            next(each for each in CUTOUTS_TABLE_12 if each.name == "cutouts-cpu-c16"),
            CUTOUTS_TABLE_12,
        ),
    ),
    "cutouts-rates": Experiment(
        "Learning rates of three rows of cutouts-cpu",
        CUTOUTS_RATES,
        (100,),  # which no other table has
        _EVERY_EPOCH,
    ),
}
PRESETS = (
    *TABLE_2,
    *TABLE_3,
    *TABLE_8,
    *TABLE_12,
    *MMSEG,
    *SMALL,
    *CUTOUTS_CPU,
    *CUTOUTS_96,
    *CUTOUTS_TABLE_12,
    *CUTOUTS_RATES,
)
CATALOGUE = Catalogue(
    METRICS,
    PRESETS,
    EXPERIMENTS,
    Operation(checkpoint_every=1000, evaluate_every=5000),
)
