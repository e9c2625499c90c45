"""The rows of Tables 2, 3 and 12, and two small sets on which everything can be tried."""

import dataclasses

from experiments.classification.configs import IMAGENET_TRAINING, ClassificationConfig
from experiments.classification.data_config import DataConfig
from experiments.engine.optimization import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import Preset
from experiments.engine.settings import TrainingConfig
from experiments.models.resnet import ResNetConfig
from experiments.resamplers import Downsampler

ClassificationPreset = Preset[ClassificationConfig]

# By downsampler: its name in Table 3, and the box AP of a Faster R-CNN on that backbone.
_TABLE_3: dict[Downsampler, tuple[str, float]] = {
    "strided": ("Conv", 36.5),
    "max_pool": ("Max Pool", 37.8),
    "avg_pool": ("Avg Pool", 37.9),
    "dpp": ("DPP", 37.7),
    "lip": ("LIP", 38.0),
    "carafe": ("CARAFE++", 38.8),
}

# By compressed channels C_m: top-1 and top-5 in percent.
_TABLE_12 = {
    4: (77.31, 93.59),
    8: (77.43, 93.63),
    16: (77.46, 93.63),
    32: (77.40, 93.60),
    64: (77.46, 93.67),
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
_STAMPS = ClassificationConfig(
    model=ResNetConfig(depth=18),
    data=DataConfig("stamps", 96, 96, "inception", smallest_area=0.4),
    training=dataclasses.replace(
        IMAGENET_TRAINING,
        batch_size=256,
        workers=2,
        schedule=ScheduleConfig(length=60, unit="epoch", warmup=5, decay="cosine"),
    ),
)


def _imagenet(name: str, row: str, model: ResNetConfig, paper: str) -> ClassificationPreset:
    return Preset(name, row, ClassificationConfig(model=model), paper)


def _accuracy(top1: float, top5: float) -> str:
    return f"top-1 {top1:.2f} %, top-5 {top5:.2f} %"


TABLE_2 = (
    _imagenet("table2-resnet50", "Table 2, ResNet-50", ResNetConfig(50), _accuracy(76.43, 93.21)),
    _imagenet(
        "table2-resnet50-carafe",
        "Table 2, ResNet-50 w/ CARAFE++",
        ResNetConfig(50, "carafe"),
        _accuracy(77.46, 93.63),
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
        f"box AP {ap} of Faster R-CNN on this backbone; its accuracy is not given",
    )
    for method, (name, ap) in _TABLE_3.items()
)
TABLE_12 = tuple(
    _imagenet(
        f"table12-resnet50-c{channels}",
        f"Table 12, C_m = {channels}",
        ResNetConfig(50, "carafe", compressed_channels=channels),
        _accuracy(*scores),
    )
    for channels, scores in _TABLE_12.items()
)
SMALL = tuple(
    Preset(
        f"{config.data.source}-resnet18-{method.replace('_', '-')}",
        f"{config.data.source.capitalize()}, ResNet-18, {name}",
        dataclasses.replace(config, model=dataclasses.replace(config.model, downsampler=method)),
        "none: another data set",
    )
    for config in (_DIGITS, _STAMPS)
    for method, (name, _) in _TABLE_3.items()
)
TABLES = {"table2": TABLE_2, "table3": TABLE_3, "table12": TABLE_12}
PRESETS = (*TABLE_2, *TABLE_3, *TABLE_12, *SMALL)
