"""Presets for the rows of Tables 8 and 9 on ADE20K, for mmseg's recipe, and for scenes."""

import dataclasses

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.engine.optimization_config import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import (
    Catalogue,
    Experiment,
    Metric,
    Preset,
    Scores,
    compared_with,
)
from experiments.engine.settings import Operation, TrainingConfig
from experiments.models.resnet_config import Depth, ResNetConfig
from experiments.resamplers.methods import Downsampler, Upsampler
from experiments.segmentation.configs import ADE20K_TRAINING, LossConfig, SegmentationConfig
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.evaluation.metric_names import (
    MEAN_IOU,
    MEAN_IOU_OF_PRESENT,
    PIXEL_ACCURACY,
)
from experiments.segmentation.model.config import Architecture, SegmenterConfig

SegmentationPreset = Preset[SegmentationConfig]

METRICS = (
    Metric(MEAN_IOU, "mIoU", "%", 2, 100),
    Metric(PIXEL_ACCURACY, "P.A.", "%", 2, 100),
    Metric(MEAN_IOU_OF_PRESENT, "mIoU of the classes that occur", "%", 2, 100, "detail"),
)

_CROPS = DataConfig(augmentation="crop", distort=True, test_shorter=512, longer=2048)
# mmseg resizes logits to the labels, and divides by all pixels.
_MMSEG_LOSS = LossConfig(resolution="labels", average="all")
_MMSEG_TRAINING = dataclasses.replace(
    ADE20K_TRAINING,
    optimizer=dataclasses.replace(
        ADE20K_TRAINING.optimizer, learning_rate=0.01, weight_decay=5e-4, decay_all=True
    ),
    schedule=ScheduleConfig(length=80_000, decay="poly", power=0.9, lowest=1e-4),
)
# The authors' later implementations of PSPNet and PSANet have 100 epochs, a learning rate of 0.01,
# and crops of these sides.
_CROP_SIDES: dict[Architecture, int] = {"pspnet": 473, "psanet": 465}
_DILATED_TRAINING = dataclasses.replace(
    ADE20K_TRAINING,
    optimizer=dataclasses.replace(ADE20K_TRAINING.optimizer, learning_rate=0.01),
    schedule=ScheduleConfig(length=100, unit="epoch", decay="poly", power=0.9),
)


def _with_carafe(model: SegmenterConfig, *parts: str) -> SegmenterConfig:
    """A UperNet with CARAFE++ in some parts: ``"ppm"``, ``"fpn"``, ``"fuse"``, ``"backbone"``."""
    methods: dict[str, Upsampler] = dict.fromkeys(parts, "carafe")
    downsampler: Downsampler = "carafe" if "backbone" in parts else "strided"
    return dataclasses.replace(
        model,
        backbone=dataclasses.replace(model.backbone, downsampler=downsampler),
        ppm=methods.get("ppm", "bilinear"),
        fpn=methods.get("fpn", "bilinear"),
        fuse=methods.get("fuse", "bilinear"),
    )


def _upernet(depth: Depth, *parts: str) -> SegmentationConfig:
    """UperNet of the official implementation, with CARAFE++ in some parts."""
    backbone = ResNetConfig(depth, norm="sync_batch", stem="deep")
    return SegmentationConfig(model=_with_carafe(SegmenterConfig(backbone=backbone), *parts))


def _dilated(depth: Depth, architecture: Architecture) -> SegmentationConfig:
    """PSPNet or PSANet, with a dilated ResNet."""
    backbone = ResNetConfig(depth, norm="sync_batch", output_stride=8, stem="deep")
    return SegmentationConfig(
        model=SegmenterConfig(
            architecture,
            backbone,
            pooling_order="convolution_first",
            dropout=0.1,
            auxiliary=True,
        ),
        data=dataclasses.replace(_CROPS, crop_side=_CROP_SIDES[architecture], distort=False),
        training=_DILATED_TRAINING,
        loss=LossConfig(resolution="labels"),
    )


def _mmseg(*parts: str) -> SegmentationConfig:
    """UperNet with ResNet-50 and the recipe of mmseg, with CARAFE++ in some parts."""
    model = SegmenterConfig(
        backbone=ResNetConfig(50, norm="sync_batch", stem="v1c"),
        pooling_order="convolution_first",
        dropout=0.1,
        auxiliary=True,
    )
    return SegmentationConfig(
        model=_with_carafe(model, *parts),
        data=_CROPS,
        training=_MMSEG_TRAINING,
        loss=_MMSEG_LOSS,
    )


def _scores(miou: float, accuracy: float) -> Scores:
    return {MEAN_IOU: miou, PIXEL_ACCURACY: accuracy}


_ALL = ("ppm", "fpn", "fuse", "backbone")
_BASELINE = _scores(40.44, 79.80)
_EVERYWHERE = _scores(43.05, 80.81)  # Tables 8 and 9
_QUOTED = "quoted from the paper of the network"

TABLE_8 = tuple(
    Preset(f"table8-{name}", f"Table 8, {row}", config, scores, note)
    for name, row, config, scores, note in (
        (
            "pspnet-resnet50",
            "PSPNet, ResNet-50",
            _dilated(50, "pspnet"),
            _scores(41.68, 80.04),
            _QUOTED,
        ),
        (
            "psanet-resnet50",
            "PSANet, ResNet-50",
            _dilated(50, "psanet"),
            _scores(41.92, 80.17),
            _QUOTED,
        ),
        ("upernet-resnet50", "UperNet, ResNet-50", _upernet(50), _BASELINE, ""),
        (
            "upernet-resnet50-carafe",
            "UperNet w/ CARAFE++, ResNet-50",
            _upernet(50, *_ALL),
            _EVERYWHERE,
            "",
        ),
        (
            "pspnet-resnet101",
            "PSPNet, ResNet-101",
            _dilated(101, "pspnet"),
            _scores(41.96, 80.64),
            _QUOTED,
        ),
        (
            "psanet-resnet101",
            "PSANet, ResNet-101",
            _dilated(101, "psanet"),
            _scores(42.75, 80.71),
            _QUOTED,
        ),
        ("upernet-resnet101", "UperNet, ResNet-101", _upernet(101), _scores(42.00, 80.79), ""),
        (
            "upernet-resnet101-carafe",
            "UperNet w/ CARAFE++, ResNet-101",
            _upernet(101, *_ALL),
            _scores(43.94, 81.26),
            "",
        ),
    )
)

# The paper's Table 9 has no baseline; the baseline of Table 8 is added for comparison.
_TABLE_9: tuple[tuple[tuple[str, ...], Scores], ...] = (
    ((), _BASELINE),
    (("ppm",), _scores(40.85, 79.97)),
    (("fpn",), _scores(40.79, 80.01)),
    (("fuse",), _scores(41.06, 80.23)),
    (("ppm", "fpn"), _scores(41.55, 80.30)),
    (("ppm", "fuse"), _scores(42.01, 80.11)),
    (("fpn", "fuse"), _scores(41.93, 80.34)),
    (("ppm", "fpn", "fuse"), _scores(42.23, 80.34)),
    (("backbone",), _scores(41.93, 80.35)),
    (_ALL, _EVERYWHERE),
)
_SHOWN = {"ppm": "PPM", "fpn": "FPN", "fuse": "FUSE", "backbone": "backbone"}


def _row(parts: tuple[str, ...]) -> str:
    return f"CARAFE++ in {', '.join(_SHOWN[part] for part in parts)}" if parts else "no CARAFE++"


TABLE_9 = tuple(
    Preset(
        f"table9-{'-'.join(parts) or 'baseline'}",
        f"Table 9, {_row(parts)}",
        _upernet(50, *parts),
        scores,
    )
    for parts, scores in _TABLE_9
)

_HEAD = ("ppm", "fpn", "fuse")
MMSEG = tuple(
    Preset(f"mmseg-{name}", f"UperNet, ResNet-50-V1c, {_row(parts)}", _mmseg(*parts), {}, note)
    for name, parts, note in (
        (
            "upernet-resnet50",
            (),
            "none: another recipe, with which mmseg reports an mIoU of 40.70 %",
        ),
        ("upernet-resnet50-carafe-head", _HEAD, "none: another recipe"),
        ("upernet-resnet50-carafe", _ALL, "none: another recipe"),
    )
)

# Small versions of Table 9: photographed objects pasted on photographs, and a backbone with random
# initial weights.
_GPU = SegmentationConfig(
    model=SegmenterConfig(backbone=ResNetConfig(18, norm="sync_batch", stem="deep"), channels=128),
    data=DataConfig(
        "scenes",
        shorter_sides=(192, 240, 288, 336, 384),
        longer=512,
        aspects=(4 / 3,),
        test_shorter=288,
    ),
    training=dataclasses.replace(
        ADE20K_TRAINING, schedule=ScheduleConfig(length=12_000, decay="poly")
    ),
    pretrained=False,
)
_CPU = SegmentationConfig(
    model=SegmenterConfig(
        backbone=ResNetConfig(18, norm="batch", width=16, stem="deep"), channels=64, norm="batch"
    ),
    data=DataConfig(
        "scenes",
        scenes=ScenesConfig("debian", 160, 2000, 100, smallest=24, largest=110, max_objects=4),
        shorter_sides=(120,),  # on a CPU, compiling for a shape takes as long as hundreds of steps
        longer=160,
        aspects=(4 / 3,),
        test_shorter=120,
        cost_side=128,
    ),
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3),
        schedule=ScheduleConfig(length=1500, warmup=50, decay="cosine"),
    ),
    pretrained=False,
)
_SMALL_ROWS: dict[str, tuple[str, ...]] = {
    "baseline": (),
    "head": _HEAD,
    "backbone": ("backbone",),
    "carafe": _ALL,
}
# Scores, a note on them, and the training time on two cores while other programs ran.
_MEASURED: dict[str, tuple[Scores, str, str]] = {
    "scenes-cpu-baseline": (_scores(18.81, 83.61), "one seed", "15 min"),
    "scenes-cpu-carafe": (_scores(20.21, 83.78), "one seed", "16 min"),
}


def _small_presets(
    scale: str, row: str, config: SegmentationConfig
) -> tuple[SegmentationPreset, ...]:
    presets = []
    for suffix, parts in _SMALL_ROWS.items():
        changed = dataclasses.replace(config, model=_with_carafe(config.model, *parts))
        name = f"scenes-{scale}-{suffix}"
        measured = _MEASURED.get(name, ({}, "", "not measured"))
        note = "none: another dataset"
        presets.append(Preset(name, f"{row}, {_row(parts)}", changed, {}, note, *measured))
    return tuple(presets)


SCENES_GPU = _small_presets("gpu", "Scenes, UperNet, ResNet-18", _GPU)
SCENES_CPU = _small_presets("cpu", "Small scenes, narrow UperNet", _CPU)
_SEEDS = (0, 1, 2)
EXPERIMENTS = {
    "table8": Experiment("Table 8, semantic segmentation, ADE20K", TABLE_8),
    "table9": Experiment("Table 9, CARAFE++ in each part of UperNet, ADE20K", TABLE_9),
    "mmseg": Experiment("UperNet with the recipe of mmseg, ADE20K", MMSEG),
    "scenes-gpu": Experiment(
        "Small version of Table 9, scenes",
        SCENES_GPU,
        _SEEDS,
        comparisons=compared_with(SCENES_GPU[0], SCENES_GPU),
    ),
    "scenes-cpu": Experiment(
        "Small version of Table 9, scenes of 160 pixels",
        SCENES_CPU,
        _SEEDS,
        comparisons=compared_with(SCENES_CPU[0], SCENES_CPU),
    ),
}
PRESETS = tuple(row for experiment in EXPERIMENTS.values() for row in experiment.presets)
CATALOGUE = Catalogue(
    METRICS, PRESETS, EXPERIMENTS, Operation(checkpoint_every=1000, evaluate_every=10_000)
)
