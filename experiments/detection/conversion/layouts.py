"""The names and arrangements of a detector's weights in mmdet, torchvision and detectron2.

All three libraries order anchors by row, column and ratio, and deltas by anchor or class, then by
x, y, width and height. They flatten regions with the channels first. They differ in the classes:
mmdet and detectron2 have the background last, as here. torchvision has the background first, and a
row for each of COCO's ids up to 90, ten of which COCO does not use.
"""

import dataclasses
import functools

from experiments.data.coco import OFFICIAL_IDS
from experiments.detection.conversion.constants import is_constant
from experiments.detection.conversion.libraries import Library, Names
from experiments.detection.conversion.rows import Rows
from experiments.detection.model.config import DetectorConfig
from experiments.weights import resnets
from experiments.weights.arrangements import (
    CONVOLUTION,
    DENSE,
    VECTOR,
    Arrangement,
    Deconvolution,
    DenseOnRegions,
    Logits,
)
from experiments.weights.layout import Layout, Path, Source, counter

_UP = 2  # factor of every upsampler
# The logit of ids that COCO does not use, in files of detectors that were trained here: their
# probability is then 0.
_NEVER = -100.0


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer with a kernel and a bias.

    Args:
        name: name of the layer in the file.
        kernel: arrangement of its kernel.
        bias: arrangement of its bias.
    """

    name: str
    kernel: Arrangement = CONVOLUTION
    bias: Arrangement = VECTOR


# Layers by their path in the tree of a detector.
type _Layers = dict[Path, _Layer]


def layout(library: Library, config: DetectorConfig, names: Names = "new") -> Layout:
    """The layout of a library's files for a detector.

    Args:
        library: the library.
        config: config of the detector.
        names: version of torchvision's or mmdet's names; detectron2 has one version.
    """
    match library:
        case "mmdet":
            resnet = resnets.torchvision if names == "new" else resnets.early_mmdet
            layers, prefix = _mmdet(config), "backbone."
        case "torchvision":
            layers, resnet, prefix = (
                _torchvision(config, names),
                resnets.torchvision,
                "backbone.body.",
            )
        case "detectron2":
            layers, resnet, prefix = _detectron2(config), resnets.detectron2, "backbone.bottom_up."

    def source(path: Path) -> Source:
        if path[1] == "backbone":
            return resnet(path[2:], prefix)
        layer = layers[path[1:-1]]
        if path[-1] == "kernel":
            return Source(f"{layer.name}.weight", layer.kernel)
        return Source(f"{layer.name}.bias", layer.bias)

    return Layout(library, source, functools.partial(_unused, library))


def _unused(library: Library, name: str) -> str | None:
    """Why a detector does not use an array of a file, or None."""
    if reason := counter(name):
        return reason
    if library == "detectron2" and is_constant(name):
        return "constants, which the config of the run holds"
    return None


def _mmdet(config: DetectorConfig) -> _Layers:
    layers: _Layers = {
        ("rpn", "conv"): _Layer("rpn_head.rpn_conv"),
        ("rpn", "objectness"): _Layer("rpn_head.rpn_cls"),
        ("rpn", "boxes"): _Layer("rpn_head.rpn_reg"),
        ("box_head", "fc1"): _first_dense("roi_head.bbox_head.shared_fcs.0", config),
        ("box_head", "fc2"): _Layer("roi_head.bbox_head.shared_fcs.1", DENSE),
        ("box_head", "classes"): _Layer("roi_head.bbox_head.fc_cls", DENSE),
        ("box_head", "boxes"): _Layer("roi_head.bbox_head.fc_reg", DENSE),
    }
    laterals = 5 if config.neck.kind == "fpn_carafe" else 4
    for index in range(laterals):
        layers["neck", f"lateral_{index + 2}"] = _Layer(f"neck.lateral_convs.{index}.conv")
        layers["neck", f"output_{index + 2}"] = _Layer(f"neck.fpn_convs.{index}.conv")
        if index and config.neck.upsampler == "carafe":
            path, name = ("neck", f"upsample_{index + 2}"), f"neck.upsample_modules.{index - 1}"
            layers |= _carafe(path, name)
    if config.masks:
        head = "roi_head.mask_head"
        for index in range(config.mask.layers):
            layers["mask_head", f"conv{index + 1}"] = _Layer(f"{head}.convs.{index}.conv")
        if config.mask.upsampler == "carafe":
            layers |= _carafe(("mask_head", "upsample"), f"{head}.upsample")
        else:
            layers |= _deconvolution(f"{head}.upsample")
        layers["mask_head", "masks"] = _Layer(f"{head}.conv_logits")
    return layers


def _torchvision(config: DetectorConfig, names: Names) -> _Layers:
    new = names == "new"
    suffix = ".0" if new else ""
    # The background is first in the file and last here; it has boxes and masks in the file only.
    classes = Rows((*OFFICIAL_IDS, 0), 91)
    objects = Rows(OFFICIAL_IDS, 91)
    boxes = Rows(tuple(4 * row + side for row in OFFICIAL_IDS for side in range(4)), 4 * 91)

    def predictor(name: str, rows: Rows, kernel: Arrangement, bias: float = 0) -> _Layer:
        return _Layer(
            f"roi_heads.{name}",
            dataclasses.replace(rows, arrangement=kernel),
            dataclasses.replace(rows, missing=bias),
        )

    layers: _Layers = {
        ("rpn", "conv"): _Layer("rpn.head.conv.0.0" if new else "rpn.head.conv"),
        ("rpn", "objectness"): _Layer("rpn.head.cls_logits"),
        ("rpn", "boxes"): _Layer("rpn.head.bbox_pred"),
        ("box_head", "fc1"): _first_dense("roi_heads.box_head.fc6", config),
        ("box_head", "fc2"): _Layer("roi_heads.box_head.fc7", DENSE),
        ("box_head", "classes"): predictor("box_predictor.cls_score", classes, DENSE, _NEVER),
        ("box_head", "boxes"): predictor("box_predictor.bbox_pred", boxes, DENSE),
    }
    for index in range(4):
        layers["neck", f"lateral_{index + 2}"] = _Layer(
            f"backbone.fpn.inner_blocks.{index}{suffix}"
        )
        layers["neck", f"output_{index + 2}"] = _Layer(f"backbone.fpn.layer_blocks.{index}{suffix}")
    if config.masks:
        for index in range(config.mask.layers):
            name = f"{index}.0" if new else f"mask_fcn{index + 1}"
            layers["mask_head", f"conv{index + 1}"] = _Layer(f"roi_heads.mask_head.{name}")
        layers |= _deconvolution("roi_heads.mask_predictor.conv5_mask")
        name = "mask_predictor.mask_fcn_logits"
        layers["mask_head", "masks"] = predictor(name, objects, CONVOLUTION)
    return layers


def _detectron2(config: DetectorConfig) -> _Layers:
    rpn, heads = "proposal_generator.rpn_head", "roi_heads"
    layers: _Layers = {
        ("rpn", "conv"): _Layer(f"{rpn}.conv"),
        ("rpn", "objectness"): _Layer(f"{rpn}.objectness_logits"),
        ("rpn", "boxes"): _Layer(f"{rpn}.anchor_deltas"),
        ("box_head", "fc1"): _first_dense(f"{heads}.box_head.fc1", config),
        ("box_head", "fc2"): _Layer(f"{heads}.box_head.fc2", DENSE),
        ("box_head", "classes"): _Layer(f"{heads}.box_predictor.cls_score", DENSE),
        ("box_head", "boxes"): _Layer(f"{heads}.box_predictor.bbox_pred", DENSE),
    }
    for level in range(2, 6):
        layers["neck", f"lateral_{level}"] = _Layer(f"backbone.fpn_lateral{level}")
        layers["neck", f"output_{level}"] = _Layer(f"backbone.fpn_output{level}")
    if config.masks:
        head = f"{heads}.mask_head"
        for index in range(1, config.mask.layers + 1):
            layers["mask_head", f"conv{index}"] = _Layer(f"{head}.mask_fcn{index}")
        layers |= _deconvolution(f"{head}.deconv")
        layers["mask_head", "masks"] = _Layer(f"{head}.predictor")
    return layers


def _first_dense(name: str, config: DetectorConfig) -> _Layer:
    return _Layer(name, DenseOnRegions(config.box.size))


def _deconvolution(name: str) -> _Layers:
    # Flax names the layer in our module of a deconvolution.
    return {("mask_head", "upsample", "ConvTranspose_0"): _Layer(name, Deconvolution())}


def _carafe(path: Path, name: str) -> _Layers:
    predictor = (*path, "kernel_predictor")
    return {
        (*predictor, "channel_compressor"): _Layer(f"{name}.channel_compressor"),
        (*predictor, "content_encoder"): _Layer(
            f"{name}.content_encoder", Logits(_UP), Logits(_UP)
        ),
    }
