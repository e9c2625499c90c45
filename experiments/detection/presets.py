"""Presets for the rows of the paper's tables on COCO, and for a small dataset of scenes."""

import dataclasses
from typing import Literal

from carafe_jax import Normalizer
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.detection.configs import COCO_TRAINING, SCHEDULE_2X, DetectionConfig
from experiments.detection.data.config import DataConfig
from experiments.detection.evaluation.metric_names import AVERAGE_PRECISIONS, logged_name
from experiments.detection.evaluation.metric_names import METRICS as COCO_METRICS
from experiments.detection.model.anchors import AnchorConfig
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
)
from experiments.detection.model.sampler_config import ANCHORS, PROPOSALS
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
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import Depth, ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.resamplers.methods import Downsampler, Upsampler

# Side of object masks in training, cropped to their boxes. The mask head's side is half as long.
MASK_SIDE = 56

DetectionPreset = Preset[DetectionConfig]

_COMPARED: tuple[Literal["box", "mask"], ...] = ("box", "mask")
_PLACES: dict[str, Literal["headline", "column", "detail"]] = {
    "AP": "headline",
    "AP50": "column",
    "AP75": "column",
}
METRICS = (
    *(
        Metric(logged_name(kind, name), f"{kind} {name}", "%", 1, 100, _PLACES.get(name, "detail"))
        for kind in _COMPARED
        for name in COCO_METRICS
    ),
    Metric("fps", "", "fps", 1),
)


def _config(
    *,
    depth: Depth = 50,
    downsampler: Downsampler = "strided",
    upsampler: Upsampler = "nearest",
    carafe: CarafeConfig | None = None,
    mask: Upsampler | None = None,
    schedule: Literal["1x", "2x"] = "1x",
    deformable: bool = False,
) -> DetectionConfig:
    """A COCO config: Mask R-CNN with the upsampler ``mask`` in its mask head, or Faster R-CNN."""
    # The paper says Res-2 to Res-4 and seems to count from 0: see `ResNetConfig`.
    stages = (False, deformable, deformable, deformable)
    model = DetectorConfig(
        backbone=ResNetConfig(depth, downsampler, norm="frozen", deformable_stages=stages),
        neck=FPNConfig(upsampler=upsampler, carafe=carafe or CarafeConfig()),
        masks=mask is not None,
        mask=MaskHeadConfig(upsampler=mask or "deconvolution"),
    )
    training = COCO_TRAINING
    if schedule == "2x":
        training = dataclasses.replace(training, schedule=SCHEDULE_2X)
    data = DataConfig(mask_side=MASK_SIDE if mask else None)
    return DetectionConfig(model=model, data=data, training=training)


def _scores(kind: Literal["box", "mask"], *scores: float) -> Scores:
    """AP, AP50, AP75, AP_S, AP_M and AP_L in percent, the columns of Tables 1 to 7."""
    return {
        logged_name(kind, name): score
        for name, score in zip(AVERAGE_PRECISIONS, scores, strict=True)
    }


def _box(*scores: float, fps: float | None = None) -> Scores:
    found = _scores("box", *scores)
    return found if fps is None else {**found, "fps": fps}


def _mask(*scores: float) -> Scores:
    return _scores("mask", *scores)


def _row(
    table: int, name: str, row: str, config: DetectionConfig, paper: Scores
) -> DetectionPreset:
    return Preset(f"table{table}-{name}", f"Table {table}, {row}", config, paper)


# Scores of rows that are in several tables.
_BASELINE = _box(36.5, 58.4, 39.3, 21.3, 40.3, 47.2, fps=12.5)  # Tables 3 and 4
_FPN_CARAFE = _box(37.8, 60.1, 40.8, 23.2, 41.2, 48.2)  # Tables 4, 5, 11, 13 and 14
_MASK_BASELINE = _mask(34.2, 55.5, 36.3, 17.6, 37.8, 46.7)  # Tables 6 and 7
_MASK_CARAFE = _mask(34.7, 56.2, 37.1, 18.2, 37.9, 47.5)  # Tables 6 and 7

TABLE_1 = (
    _row(
        1,
        "faster-rcnn-resnet101",
        "Faster R-CNN, ResNet-101",
        _config(depth=101, schedule="2x"),
        _box(39.7, 61.3, 43.2, 22.0, 43.1, 50.2, fps=10.3),
    ),
    _row(
        1,
        "faster-rcnn-resnet101-carafe",
        "Faster R-CNN w/ CARAFE++, ResNet-101",
        _config(depth=101, downsampler="carafe", upsampler="carafe", schedule="2x"),
        _box(42.2, 64.2, 46.2, 24.8, 45.5, 53.0, fps=9.9),
    ),
    _row(
        1,
        "mask-rcnn-resnet101",
        "Mask R-CNN, ResNet-101",
        _config(depth=101, mask="deconvolution", schedule="2x"),
        _box(40.8, 62.3, 44.6, 22.9, 43.9, 52.0, fps=7.6)
        | _mask(37.0, 59.1, 39.6, 16.9, 39.4, 53.1),
    ),
    _row(
        1,
        "mask-rcnn-resnet101-carafe",
        "Mask R-CNN w/ CARAFE++, ResNet-101",
        _config(depth=101, downsampler="carafe", upsampler="carafe", mask="carafe", schedule="2x"),
        _box(43.2, 65.1, 47.4, 25.8, 46.4, 54.4, fps=7.3)
        | _mask(39.1, 62.1, 42.1, 19.3, 41.6, 55.4),
    ),
    _row(
        1,
        "faster-rcnn-resnet101-dcn",
        "Faster R-CNN, ResNet-101-DCNv2",
        _config(depth=101, deformable=True, schedule="2x"),
        _box(43.2, 65.1, 47.4, 24.6, 46.4, 55.8, fps=8.5),
    ),
    _row(
        1,
        "faster-rcnn-resnet101-dcn-carafe",
        "Faster R-CNN w/ CARAFE++, ResNet-101-DCNv2",
        _config(
            depth=101, deformable=True, downsampler="carafe", upsampler="carafe", schedule="2x"
        ),
        _box(44.3, 65.9, 48.5, 25.8, 47.4, 56.6, fps=8.3),
    ),
    _row(
        1,
        "mask-rcnn-resnet101-dcn",
        "Mask R-CNN, ResNet-101-DCNv2",
        _config(depth=101, deformable=True, mask="deconvolution", schedule="2x"),
        _box(44.2, 65.8, 48.5, 25.4, 47.3, 57.1, fps=6.7)
        | _mask(39.7, 62.7, 42.6, 18.5, 42.0, 57.3),
    ),
    _row(
        1,
        "mask-rcnn-resnet101-dcn-carafe",
        "Mask R-CNN w/ CARAFE++, ResNet-101-DCNv2",
        _config(
            depth=101,
            deformable=True,
            downsampler="carafe",
            upsampler="carafe",
            mask="carafe",
            schedule="2x",
        ),
        _box(45.3, 66.7, 49.7, 26.8, 48.7, 58.0, fps=6.5)
        | _mask(40.6, 63.8, 43.9, 19.9, 43.1, 57.8),
    ),
)

_TABLE_3: dict[Downsampler, tuple[str, Scores]] = {
    "strided": ("Conv", _BASELINE),
    "max_pool": ("Max Pool", _box(37.8, 59.6, 40.9, 22.3, 42.1, 48.4, fps=12.5)),
    "avg_pool": ("Avg Pool", _box(37.9, 59.8, 40.9, 22.1, 42.1, 47.9, fps=12.3)),
    "dpp": ("DPP", _box(37.7, 59.7, 40.6, 22.3, 41.9, 48.1, fps=10.9)),
    "lip": ("LIP", _box(38.0, 60.3, 41.2, 23.1, 41.9, 48.2, fps=10.8)),
    "carafe": ("CARAFE++", _box(38.8, 60.8, 42.2, 23.3, 43.1, 49.2, fps=12.1)),
}
TABLE_3 = tuple(
    _row(3, method.replace("_", "-"), name, _config(downsampler=method), scores)
    for method, (name, scores) in _TABLE_3.items()
)

_TABLE_4: dict[Upsampler, tuple[str, Scores]] = {
    "nearest": ("Nearest", _BASELINE),
    "bilinear": ("Bilinear", _box(36.7, 58.7, 39.7, 21.0, 40.5, 47.5, fps=12.5)),
    "nearest_conv": ("Nearest + Conv", _box(36.6, 58.6, 39.5, 21.4, 40.3, 46.4, fps=11.8)),
    "bilinear_conv": ("Bilinear + Conv", _box(36.6, 58.7, 39.4, 21.6, 40.6, 46.8, fps=11.7)),
    "deconvolution": ("Deconv", _box(36.4, 58.2, 39.2, 21.3, 39.9, 46.5, fps=11.5)),
    "pixel_shuffle": ("Pixel Shuffle", _box(36.5, 58.8, 39.1, 20.9, 40.4, 46.7, fps=11.7)),
    "guided": ("GUM", _box(36.9, 58.9, 39.7, 21.5, 40.6, 48.1, fps=11.8)),
    "spatial_attention": ("Spatial Attention", _box(36.9, 58.8, 39.8, 21.7, 40.8, 47.0, fps=12.3)),
    "carafe": ("CARAFE++", _FPN_CARAFE | {"fps": 12.2}),
}
# Upsamplers that were published later, with scores from the README files of DySample, FreqFusion
# and SAPA. In the last two CARAFE has 38.6.
_AFTER_TABLE_4: dict[Upsampler, tuple[str, Scores, str]] = {
    "dysample": (
        "DySample",
        _box(38.6, 59.9, 42.0, 22.9, 42.1, 50.2),
        "DySample: nearest has 37.5",
    ),
    "dysample_plus": (
        "DySample+",
        _box(38.7, 60.0, 42.2, 22.5, 42.4, 50.2),
        "DySample: nearest has 37.5",
    ),
    "fade": ("FADE", {"box_AP": 38.5}, "FreqFusion: nearest has 37.5"),
    "fade_lite": ("FADE-Lite", {}, "no published score"),
    "sapa": ("SAPA-B", _box(37.8, 59.2, 40.6, 22.4, 41.4, 49.1), "SAPA: nearest has 37.4"),
}
TABLE_4 = tuple(
    _row(4, method.replace("_", "-"), name, _config(upsampler=method), scores)
    for method, (name, scores) in _TABLE_4.items()
) + tuple(
    Preset(
        f"table4-{method.replace('_', '-')}",
        f"After Table 4, {name}",
        _config(upsampler=method),
        scores,
        note,
        group="after the paper: published scores, and the source",
    )
    for method, (name, scores, note) in _AFTER_TABLE_4.items()
)

_BOTH = _box(39.6, 62.0, 43.2, 24.7, 43.7, 50.9, fps=11.7)
# The paper's Table 5 has no baseline row; the baseline of Tables 3 and 4 is added for comparison.
TABLE_5 = (
    _row(5, "baseline", "no CARAFE++", _config(), TABLE_4[0].paper),
    _row(5, "fpn", "CARAFE++ in FPN", _config(upsampler="carafe"), _TABLE_4["carafe"][1]),
    _row(5, "backbone", "CARAFE++ in backbone", _config(downsampler="carafe"), TABLE_3[-1].paper),
    _row(
        5,
        "fpn-backbone",
        "CARAFE++ in FPN and backbone",
        _config(downsampler="carafe", upsampler="carafe"),
        _BOTH,
    ),
)

_TABLE_6: dict[Upsampler, tuple[str, Scores]] = {
    "nearest": ("Nearest", _mask(32.7, 55.0, 34.8, 17.7, 35.9, 44.4)),
    "bilinear": ("Bilinear", _mask(34.2, 55.9, 36.4, 18.5, 37.5, 46.2)),
    "deconvolution": ("Deconv", _MASK_BASELINE),
    "pixel_shuffle": ("Pixel Shuffle", _mask(34.4, 56.0, 36.6, 18.5, 37.6, 47.5)),
    "guided": ("GUM", _mask(34.3, 55.7, 36.5, 17.6, 37.6, 46.9)),
    "spatial_attention": ("Spatial Attention", _mask(34.1, 55.6, 36.5, 17.6, 37.4, 46.6)),
    "carafe": ("CARAFE++", _MASK_CARAFE),
}
TABLE_6 = tuple(
    _row(6, method.replace("_", "-"), name, _config(mask=method), scores)
    for method, (name, scores) in _TABLE_6.items()
)

# The flags say whether CARAFE++ is in FPN, mask head and backbone. Scores of boxes and masks.
_TABLE_7: tuple[tuple[str, str, tuple[bool, bool, bool], Scores], ...] = (
    (
        "baseline",
        "no CARAFE++",
        (False, False, False),
        _box(37.4, 59.1, 40.3, 21.2, 41.2, 48.5) | _MASK_BASELINE,
    ),
    (
        "fpn",
        "CARAFE++ in FPN",
        (True, False, False),
        _box(38.6, 60.7, 42.2, 23.2, 42.1, 49.5) | _mask(35.2, 57.2, 37.5, 19.3, 38.3, 47.6),
    ),
    (
        "mask-head",
        "CARAFE++ in mask head",
        (False, True, False),
        _box(37.3, 59.0, 40.2, 21.8, 40.8, 48.6) | _MASK_CARAFE,
    ),
    (
        "fpn-mask-head",
        "CARAFE++ in FPN and mask head",
        (True, True, False),
        _box(38.6, 60.6, 42.1, 23.2, 42.1, 50.0) | _mask(35.6, 57.5, 37.8, 16.9, 38.1, 52.4),
    ),
    (
        "backbone",
        "CARAFE++ in backbone",
        (False, False, True),
        _box(39.5, 61.3, 43.2, 23.9, 43.4, 50.7) | _mask(35.9, 57.9, 38.0, 17.5, 38.9, 51.8),
    ),
    (
        "all",
        "CARAFE++ in FPN, mask head and backbone",
        (True, True, True),
        _box(40.3, 62.5, 43.9, 24.8, 44.4, 51.5) | _mask(36.8, 59.2, 39.2, 18.0, 39.9, 53.6),
    ),
)
TABLE_7 = tuple(
    _row(
        7,
        name,
        row,
        _config(
            upsampler="carafe" if fpn else "nearest",
            mask="carafe" if mask_head else "deconvolution",
            downsampler="carafe" if backbone else "strided",
        ),
        scores,
    )
    for name, row, (fpn, mask_head, backbone), scores in _TABLE_7
)

_TABLE_11: dict[int | None, Scores] = {
    16: _box(37.6, 60.1, 40.6, 22.7, 41.6, 48.4),
    32: _box(37.7, 60.3, 40.7, 22.8, 41.2, 49.0),
    64: _FPN_CARAFE,
    128: _box(37.8, 60.1, 40.8, 22.4, 41.7, 48.7),
    256: _box(37.8, 60.4, 40.8, 22.7, 41.3, 48.8),
    None: _box(37.8, 60.3, 40.8, 22.9, 41.5, 48.7),
}
TABLE_11 = tuple(
    _row(
        11,
        f"c{channels}" if channels else "no-compressor",
        f"C_m = {channels or 'N/A'}",
        _config(upsampler="carafe", carafe=CarafeConfig(compressed_channels=channels)),
        scores,
    )
    for channels, scores in _TABLE_11.items()
)

# The keys are the sizes of the content encoder's kernel and of the reassembly kernels.
_TABLE_13: dict[tuple[int, int], Scores] = {
    (1, 3): _box(37.3, 59.6, 40.5, 22.0, 40.7, 48.1),
    (1, 5): _box(37.3, 59.9, 40.0, 22.3, 41.1, 47.3),
    (3, 3): _box(37.3, 59.7, 40.4, 22.1, 40.8, 48.3),
    (3, 5): _FPN_CARAFE,
    (3, 7): _box(37.7, 60.0, 40.9, 23.0, 41.5, 48.4),
    (5, 5): _box(37.8, 60.2, 40.7, 22.5, 41.4, 48.6),
    (5, 7): _box(38.1, 60.4, 41.3, 23.0, 41.6, 48.8),
    (7, 7): _box(38.0, 60.2, 41.1, 23.0, 41.8, 48.8),
}
TABLE_13 = tuple(
    _row(
        13,
        f"encoder{encoder}-reassembly{kernel}",
        f"k_encoder = {encoder}, k_reassembly = {kernel}",
        _config(upsampler="carafe", carafe=CarafeConfig(encoder_size=encoder, kernel_size=kernel)),
        scores,
    )
    for (encoder, kernel), scores in _TABLE_13.items()
)

_TABLE_14: dict[Normalizer, tuple[str, Scores]] = {
    "sigmoid": ("Sigmoid", _box(37.4, 59.8, 40.2, 23.1, 40.9, 47.4)),
    "sigmoid_normalized": ("Sigmoid Normalize", _box(37.8, 60.1, 40.7, 22.6, 41.6, 48.0)),
    "softmax": ("Softmax", _FPN_CARAFE),
}
TABLE_14 = tuple(
    _row(
        14,
        normalizer.replace("_", "-"),
        row,
        _config(upsampler="carafe", carafe=CarafeConfig(normalizer=normalizer)),
        scores,
    )
    for normalizer, (row, scores) in _TABLE_14.items()
)

# A small version of Table 4: photographed objects pasted on photographs, and a backbone with random
# initial weights.
_GPU = DetectionConfig(
    model=DetectorConfig(
        backbone=ResNetConfig(18, norm="sync_batch"),
        frozen_stages=0,
        neck=FPNConfig(channels=128),
        anchors=AnchorConfig(scale=4.0),
        training_proposals=ProposalConfig(1000, 1000),
        proposals=ProposalConfig(500, 500),
        masks=True,
        mask=MaskHeadConfig(features=128),
    ),
    data=DataConfig("scenes", shorter=320, longer=427, max_objects=8, mask_side=MASK_SIDE),
    training=dataclasses.replace(
        COCO_TRAINING,
        schedule=ScheduleConfig(
            length=6000, warmup=500, warmup_from=0.002, decay="step", milestones=(4500, 5500)
        ),
    ),
)
_CPU = DetectionConfig(
    model=DetectorConfig(
        backbone=ResNetConfig(18, norm="batch", width=16),
        frozen_stages=0,
        neck=FPNConfig(channels=32),
        anchors=AnchorConfig(scale=4.0),
        training_proposals=ProposalConfig(200, 200),
        proposals=ProposalConfig(100, 100),
        box=BoxHeadConfig(features=128, detections=20),
        masks=True,
        mask=MaskHeadConfig(layers=2, features=32),
    ),
    data=DataConfig(
        "scenes",
        shorter=120,
        longer=160,
        max_objects=4,
        mask_side=MASK_SIDE,
        scenes=ScenesConfig("debian", 160, 2000, 100, smallest=24, largest=110, max_objects=4),
    ),
    training=TrainingConfig(
        batch_size=8,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3),
        schedule=ScheduleConfig(length=1500, warmup=50, decay="cosine"),
    ),
    anchor_sampler=dataclasses.replace(ANCHORS, count=64),
    proposal_sampler=dataclasses.replace(PROPOSALS, count=64),
)


# Scores, a note on them, and the training time on two cores, which other work shared.
_MEASURED: dict[str, tuple[Scores, str, str]] = {
    "scenes-cpu-carafe": ({"box_AP": 11.7, "mask_AP": 13.9}, "one seed", "13 min")
}
_SMALL_METHODS: tuple[Upsampler, ...] = ("nearest", "bilinear", "deconvolution", "carafe")


def _small_presets(scale: str, row: str, config: DetectionConfig) -> tuple[DetectionPreset, ...]:
    presets = []
    for method in _SMALL_METHODS:
        neck = dataclasses.replace(config.model.neck, upsampler=method)
        changed = dataclasses.replace(config, model=dataclasses.replace(config.model, neck=neck))
        name = f"scenes-{scale}-{method}"
        measured = _MEASURED.get(name, ({}, "", "not measured"))
        row_name = f"{row}, {_TABLE_4[method][0]}"
        note = "none: another dataset"
        presets.append(Preset(name, row_name, changed, {}, note, *measured))
    return tuple(presets)


SCENES_GPU = _small_presets("gpu", "Scenes, Mask R-CNN, ResNet-18", _GPU)
SCENES_CPU = _small_presets("cpu", "Small scenes, Mask R-CNN, narrow ResNet-18", _CPU)
_TABLES = {
    1: ("detectors with ResNet-101", TABLE_1),
    3: ("downsampling in the backbone", TABLE_3),
    4: ("upsampling in the FPN", TABLE_4),
    5: ("CARAFE++ in FPN and backbone", TABLE_5),
    6: ("upsampling in the mask head", TABLE_6),
    7: ("CARAFE++ in FPN, mask head and backbone", TABLE_7),
    11: ("compressed channels", TABLE_11),
    13: ("sizes of encoder and reassembly kernels", TABLE_13),
    14: ("normalizers", TABLE_14),
}
_SEEDS = (0, 1, 2)
EXPERIMENTS = {
    **{
        f"table{number}": Experiment(f"Table {number}, {title}, COCO", rows)
        for number, (title, rows) in _TABLES.items()
    },
    "scenes-gpu": Experiment(
        "Small version of Table 4, scenes",
        SCENES_GPU,
        _SEEDS,
        comparisons=compared_with(SCENES_GPU[0], SCENES_GPU),
    ),
    "scenes-cpu": Experiment(
        "Small version of Table 4, scenes of 160 pixels",
        SCENES_CPU,
        _SEEDS,
        comparisons=compared_with(SCENES_CPU[0], SCENES_CPU),
    ),
}
PRESETS = tuple(row for experiment in EXPERIMENTS.values() for row in experiment.presets)
CATALOGUE = Catalogue(METRICS, PRESETS, EXPERIMENTS, Operation(checkpoint_every=1000))
