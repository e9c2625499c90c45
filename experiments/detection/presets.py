"""The rows of the paper's tables on COCO, and small sets on which everything can be tried."""

import dataclasses
from typing import Literal

from carafe_kernels.normalizers import Normalizer

from experiments.data.composed.scenes import ScenesConfig
from experiments.detection.configs import COCO_TRAINING, SCHEDULE_2X, DetectionConfig
from experiments.detection.data.config import DataConfig
from experiments.detection.model.anchors import AnchorConfig
from experiments.detection.model.config import (
    BoxHeadConfig,
    DetectorConfig,
    MaskHeadConfig,
    ProposalConfig,
)
from experiments.detection.model.sampling import ANCHORS, PROPOSALS
from experiments.engine.optimization import OptimizerConfig, ScheduleConfig
from experiments.engine.presets import Preset
from experiments.engine.settings import TrainingConfig
from experiments.models.fpn import FPNConfig
from experiments.models.resnet import Depth, ResNetConfig
from experiments.resamplers import CarafeConfig, Downsampler, Upsampler

# Of the objects' masks in training, cropped to their boxes; masks are learned at half of it.
MASK_SIDE = 56

DetectionPreset = Preset[DetectionConfig]
Scores = tuple[float, float, float, float, float, float]


def _config(
    *,
    depth: Depth = 50,
    downsampler: Downsampler = "strided",
    upsampler: Upsampler = "nearest",
    carafe: CarafeConfig | None = None,
    mask: Upsampler | None = None,
    schedule: Literal["1x", "2x"] = "1x",
) -> DetectionConfig:
    """A config on COCO: Mask R-CNN with the named upsampler in its mask head, or Faster R-CNN."""
    model = DetectorConfig(
        backbone=ResNetConfig(depth, downsampler, norm="frozen"),
        neck=FPNConfig(upsampler=upsampler, carafe=carafe or CarafeConfig()),
        masks=mask is not None,
        mask=MaskHeadConfig(upsampler=mask or "deconvolution"),
    )
    training = COCO_TRAINING
    if schedule == "2x":
        training = dataclasses.replace(training, schedule=SCHEDULE_2X)
    data = DataConfig(mask_side=MASK_SIDE if mask else None)
    return DetectionConfig(model=model, data=data, training=training)


def _ap(box: Scores | None, masks: Scores | None = None, fps: float | None = None) -> str:
    """The paper's scores in percent: AP, AP50, AP75 and AP of small, medium and large objects."""
    parts = [
        f"{name} AP {scores[0]} ({', '.join(map(str, scores[1:]))})"
        for name, scores in (("box", box), ("mask", masks))
        if scores
    ]
    return ", ".join(parts + [f"{fps} fps"] * (fps is not None))


def _row(table: int, name: str, row: str, config: DetectionConfig, paper: str) -> DetectionPreset:
    return Preset(f"table{table}-{name}", f"Table {table}, {row}", config, paper)


TABLE_1 = (
    _row(
        1,
        "faster-rcnn-resnet101",
        "Faster R-CNN, ResNet-101",
        _config(depth=101, schedule="2x"),
        _ap((39.7, 61.3, 43.2, 22.0, 43.1, 50.2), fps=10.3),
    ),
    _row(
        1,
        "faster-rcnn-resnet101-carafe",
        "Faster R-CNN w/ CARAFE++, ResNet-101",
        _config(depth=101, downsampler="carafe", upsampler="carafe", schedule="2x"),
        _ap((42.2, 64.2, 46.2, 24.8, 45.5, 53.0), fps=9.9),
    ),
    _row(
        1,
        "mask-rcnn-resnet101",
        "Mask R-CNN, ResNet-101",
        _config(depth=101, mask="deconvolution", schedule="2x"),
        _ap((40.8, 62.3, 44.6, 22.9, 43.9, 52.0), (37.0, 59.1, 39.6, 16.9, 39.4, 53.1), 7.6),
    ),
    _row(
        1,
        "mask-rcnn-resnet101-carafe",
        "Mask R-CNN w/ CARAFE++, ResNet-101",
        _config(depth=101, downsampler="carafe", upsampler="carafe", mask="carafe", schedule="2x"),
        _ap((43.2, 65.1, 47.4, 25.8, 46.4, 54.4), (39.1, 62.1, 42.1, 19.3, 41.6, 55.4), 7.3),
    ),
)

_TABLE_3: dict[Downsampler, tuple[str, Scores, float]] = {
    "strided": ("Conv", (36.5, 58.4, 39.3, 21.3, 40.3, 47.2), 12.5),
    "max_pool": ("Max Pool", (37.8, 59.6, 40.9, 22.3, 42.1, 48.4), 12.5),
    "avg_pool": ("Avg Pool", (37.9, 59.8, 40.9, 22.1, 42.1, 47.9), 12.3),
    "dpp": ("DPP", (37.7, 59.7, 40.6, 22.3, 41.9, 48.1), 10.9),
    "lip": ("LIP", (38.0, 60.3, 41.2, 23.1, 41.9, 48.2), 10.8),
    "carafe": ("CARAFE++", (38.8, 60.8, 42.2, 23.3, 43.1, 49.2), 12.1),
}
TABLE_3 = tuple(
    _row(3, method.replace("_", "-"), name, _config(downsampler=method), _ap(scores, fps=fps))
    for method, (name, scores, fps) in _TABLE_3.items()
)

_TABLE_4: dict[Upsampler, tuple[str, Scores, float]] = {
    "nearest": ("Nearest", (36.5, 58.4, 39.3, 21.3, 40.3, 47.2), 12.5),
    "bilinear": ("Bilinear", (36.7, 58.7, 39.7, 21.0, 40.5, 47.5), 12.5),
    "nearest_conv": ("Nearest + Conv", (36.6, 58.6, 39.5, 21.4, 40.3, 46.4), 11.8),
    "bilinear_conv": ("Bilinear + Conv", (36.6, 58.7, 39.4, 21.6, 40.6, 46.8), 11.7),
    "deconvolution": ("Deconv", (36.4, 58.2, 39.2, 21.3, 39.9, 46.5), 11.5),
    "pixel_shuffle": ("Pixel Shuffle", (36.5, 58.8, 39.1, 20.9, 40.4, 46.7), 11.7),
    "guided": ("GUM", (36.9, 58.9, 39.7, 21.5, 40.6, 48.1), 11.8),
    "spatial_attention": ("Spatial Attention", (36.9, 58.8, 39.8, 21.7, 40.8, 47.0), 12.3),
    "carafe": ("CARAFE++", (37.8, 60.1, 40.8, 23.2, 41.2, 48.2), 12.2),
}
TABLE_4 = tuple(
    _row(4, method.replace("_", "-"), name, _config(upsampler=method), _ap(scores, fps=fps))
    for method, (name, scores, fps) in _TABLE_4.items()
)

_BOTH = _ap((39.6, 62.0, 43.2, 24.7, 43.7, 50.9), fps=11.7)
# The paper has its baseline in Tables 3 and 4; here it is beside what it is compared with.
TABLE_5 = (
    _row(5, "baseline", "no CARAFE++", _config(), TABLE_4[0].paper),
    _row(5, "fpn", "CARAFE++ in FPN", _config(upsampler="carafe"), TABLE_4[-1].paper),
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
    "nearest": ("Nearest", (32.7, 55.0, 34.8, 17.7, 35.9, 44.4)),
    "bilinear": ("Bilinear", (34.2, 55.9, 36.4, 18.5, 37.5, 46.2)),
    "deconvolution": ("Deconv", (34.2, 55.5, 36.3, 17.6, 37.8, 46.7)),
    "pixel_shuffle": ("Pixel Shuffle", (34.4, 56.0, 36.6, 18.5, 37.6, 47.5)),
    "guided": ("GUM", (34.3, 55.7, 36.5, 17.6, 37.6, 46.9)),
    "spatial_attention": ("Spatial Attention", (34.1, 55.6, 36.5, 17.6, 37.4, 46.6)),
    "carafe": ("CARAFE++", (34.7, 56.2, 37.1, 18.2, 37.9, 47.5)),
}
TABLE_6 = tuple(
    _row(6, method.replace("_", "-"), name, _config(mask=method), _ap(None, scores))
    for method, (name, scores) in _TABLE_6.items()
)

# CARAFE++ in FPN, mask head and backbone; box and mask scores.
_TABLE_7: tuple[tuple[str, str, tuple[bool, bool, bool], Scores, Scores], ...] = (
    (
        "baseline",
        "no CARAFE++",
        (False, False, False),
        (37.4, 59.1, 40.3, 21.2, 41.2, 48.5),
        (34.2, 55.5, 36.3, 17.6, 37.8, 46.7),
    ),
    (
        "fpn",
        "CARAFE++ in FPN",
        (True, False, False),
        (38.6, 60.7, 42.2, 23.2, 42.1, 49.5),
        (35.2, 57.2, 37.5, 19.3, 38.3, 47.6),
    ),
    (
        "mask-head",
        "CARAFE++ in mask head",
        (False, True, False),
        (37.3, 59.0, 40.2, 21.8, 40.8, 48.6),
        (34.7, 56.2, 37.1, 18.2, 37.9, 47.5),
    ),
    (
        "fpn-mask-head",
        "CARAFE++ in FPN and mask head",
        (True, True, False),
        (38.6, 60.6, 42.1, 23.2, 42.1, 50.0),
        (35.6, 57.5, 37.8, 16.9, 38.1, 52.4),
    ),
    (
        "backbone",
        "CARAFE++ in backbone",
        (False, False, True),
        (39.5, 61.3, 43.2, 23.9, 43.4, 50.7),
        (35.9, 57.9, 38.0, 17.5, 38.9, 51.8),
    ),
    (
        "all",
        "CARAFE++ in FPN, mask head and backbone",
        (True, True, True),
        (40.3, 62.5, 43.9, 24.8, 44.4, 51.5),
        (36.8, 59.2, 39.2, 18.0, 39.9, 53.6),
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
        _ap(box, masks),
    )
    for name, row, (fpn, mask_head, backbone), box, masks in _TABLE_7
)

_TABLE_11: dict[int | None, Scores] = {
    16: (37.6, 60.1, 40.6, 22.7, 41.6, 48.4),
    32: (37.7, 60.3, 40.7, 22.8, 41.2, 49.0),
    64: (37.8, 60.1, 40.8, 23.2, 41.2, 48.2),
    128: (37.8, 60.1, 40.8, 22.4, 41.7, 48.7),
    256: (37.8, 60.4, 40.8, 22.7, 41.3, 48.8),
    None: (37.8, 60.3, 40.8, 22.9, 41.5, 48.7),
}
TABLE_11 = tuple(
    _row(
        11,
        f"c{channels}" if channels else "no-compressor",
        f"C_m = {channels or 'N/A'}",
        _config(upsampler="carafe", carafe=CarafeConfig(compressed_channels=channels)),
        _ap(scores),
    )
    for channels, scores in _TABLE_11.items()
)

# By sizes of the content encoder's kernel and of the reassembly kernels.
_TABLE_13: dict[tuple[int, int], Scores] = {
    (1, 3): (37.3, 59.6, 40.5, 22.0, 40.7, 48.1),
    (1, 5): (37.3, 59.9, 40.0, 22.3, 41.1, 47.3),
    (3, 3): (37.3, 59.7, 40.4, 22.1, 40.8, 48.3),
    (3, 5): (37.8, 60.1, 40.8, 23.2, 41.2, 48.2),
    (3, 7): (37.7, 60.0, 40.9, 23.0, 41.5, 48.4),
    (5, 5): (37.8, 60.2, 40.7, 22.5, 41.4, 48.6),
    (5, 7): (38.1, 60.4, 41.3, 23.0, 41.6, 48.8),
    (7, 7): (38.0, 60.2, 41.1, 23.0, 41.8, 48.8),
}
TABLE_13 = tuple(
    _row(
        13,
        f"encoder{encoder}-reassembly{kernel}",
        f"k_encoder = {encoder}, k_reassembly = {kernel}",
        _config(upsampler="carafe", carafe=CarafeConfig(encoder_size=encoder, kernel_size=kernel)),
        _ap(scores),
    )
    for (encoder, kernel), scores in _TABLE_13.items()
)

_TABLE_14: dict[Normalizer, tuple[str, Scores]] = {
    "sigmoid": ("Sigmoid", (37.4, 59.8, 40.2, 23.1, 40.9, 47.4)),
    "sigmoid_normalized": ("Sigmoid Normalize", (37.8, 60.1, 40.7, 22.6, 41.6, 48.0)),
    "softmax": ("Softmax", (37.8, 60.1, 40.8, 23.2, 41.2, 48.2)),
}
TABLE_14 = tuple(
    _row(
        14,
        normalizer.replace("_", "-"),
        row,
        _config(upsampler="carafe", carafe=CarafeConfig(normalizer=normalizer)),
        _ap(scores),
    )
    for normalizer, (row, scores) in _TABLE_14.items()
)

TABLES = {
    "table1": TABLE_1,
    "table3": TABLE_3,
    "table4": TABLE_4,
    "table5": TABLE_5,
    "table6": TABLE_6,
    "table7": TABLE_7,
    "table11": TABLE_11,
    "table13": TABLE_13,
    "table14": TABLE_14,
}

# Table 4 in small: photographed objects, pasted on photographs, and a backbone from nothing.
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


# On two cores, beside other work.
_MEASURED = {"scenes-cpu-carafe": ("box AP 10.0 %, mask AP 10.8 %, one seed", "13 min")}
_METHODS_IN_SMALL: tuple[Upsampler, ...] = ("nearest", "bilinear", "deconvolution", "carafe")


def _in_small(scale: str, row: str, config: DetectionConfig) -> tuple[DetectionPreset, ...]:
    presets = []
    for method in _METHODS_IN_SMALL:
        neck = dataclasses.replace(config.model.neck, upsampler=method)
        changed = dataclasses.replace(config, model=dataclasses.replace(config.model, neck=neck))
        name = f"scenes-{scale}-{method}"
        paper = "none: another data set"
        measured, runtime = _MEASURED.get(name, (None, None))
        row_name = f"{row}, {_TABLE_4[method][0]}"
        presets.append(Preset(name, row_name, changed, paper, measured, runtime))
    return tuple(presets)


# By what they are made for.
SCENES = {
    "gpu": _in_small("gpu", "Scenes, Mask R-CNN, ResNet-18", _GPU),
    "cpu": _in_small("cpu", "Small scenes, Mask R-CNN, narrow ResNet-18", _CPU),
}
PRESETS = tuple(row for rows in (*TABLES.values(), *SCENES.values()) for row in rows)
