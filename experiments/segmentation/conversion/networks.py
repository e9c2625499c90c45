"""Configs of the networks in files of weights, and the networks that a library's files can hold."""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.engine.config import check, differences
from experiments.models.resnet_config import ResNetConfig, Stem
from experiments.segmentation.configs import SegmentationConfig
from experiments.segmentation.conversion.libraries import CLASSIFIER, LIBRARIES, kernel
from experiments.segmentation.conversion.library import Library
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.model.config import Architecture, SegmenterConfig
from experiments.segmentation.presets import MMSEG
from experiments.weights.architecture import architecture as described
from experiments.weights.architecture import backbone_shapes, depth
from experiments.weights.deformable import deformable
from experiments.weights.formats import recognise
from experiments.weights.loading import WeightsError

ARCHITECTURES: tuple[Architecture, ...] = ("upernet", "pspnet")
# In CSAILVision's configs the longer side is at most 1000 pixels. It evaluates at the sides that
# training has, where this config has 450 only, and rounds the sides of an image up to a multiple
# of 32 (PSPNet: 8) by resizing; here images keep their aspect ratio.
_CSAIL = SegmentationConfig(data=DataConfig(longer=1000))
_BASES = {"csail": _CSAIL, "mmseg": MMSEG[0].config}
# The stems of three convolutions. Networks of both libraries may have a 7x7 convolution instead.
_STEMS: dict[Library, Stem] = {"csail": "deep", "mmseg": "v1c"}
# The libraries whose ResNets may have deformable convolutions.
_DEFORMABLE: tuple[Library, ...] = ("mmseg",)


def library_of(names: Sequence[str]) -> Library:
    """The library that wrote files with arrays of these names.

    Args:
        names: names in all files of the network.

    Raises:
        WeightsError: no library here has such names.
    """
    found = recognise(names)
    if found is not None and found.library in LIBRARIES:
        return found.library
    hint = f": {found.command} loads such files" if found else ""
    if "conv3.weight" in names and "fc.weight" not in names:
        hint = ": an encoder of csail, whose decoder is missing"
    raise WeightsError(
        f"the files must hold a network of {' or '.join(LIBRARIES)}, got names such as "
        f"{[*names][:3]}{hint}"
    )


def config_of(library: Library, shapes: Mapping[str, Sequence[int]]) -> SegmentationConfig:
    """The config of a run for the network in the files of a library.

    The names do not show strides: a PSPNet has the usual output stride of 8. Both libraries
    normalise RGB images with the statistics of ImageNet.

    Args:
        library: name of the library.
        shapes: shapes of the arrays in all files, by name.

    Raises:
        WeightsError: the files hold another network, or not all of it; or the number of classes is
            not ADE20K's.
    """
    backbone = backbone_shapes(shapes)
    found_depth = depth(backbone)
    architecture = _architecture(library, shapes)
    if architecture is None or found_depth is None:
        raise WeightsError(
            f"the files must hold a UperNet or a PSPNet of {library} with a standard ResNet, got "
            f"{described(shapes)}"
        )
    base = _BASES[library]
    classes = shapes[kernel(library, architecture, CLASSIFIER)][0]
    if classes != base.data.classes:
        raise WeightsError(
            f"the files must hold a network for the {base.data.classes} classes of ADE20K, got "
            f"{described(shapes)}"
        )
    stages = deformable(backbone)
    if stages.problem or (any(stages.stages) and library not in _DEFORMABLE):
        raise WeightsError(
            "the files must hold a ResNet of plain convolutions, or for "
            f"{' and '.join(_DEFORMABLE)} with modulated deformable convolutions in whole stages, "
            f"got {described(shapes)}"
        )
    hidden = shapes.get(kernel(library, architecture, "auxiliary/hidden/conv"))
    stem = _STEMS[library] if "conv3.weight" in backbone else "conv7"
    names = LIBRARIES[library]
    model = SegmenterConfig(
        architecture,
        ResNetConfig(
            found_depth,
            norm="sync_batch",
            output_stride=32 if architecture == "upernet" else 8,
            width=backbone["layer1.0.conv1.weight"][0],
            stem=stem,
            deformable_stages=stages.stages,
            deformable_groups=stages.groups,
        ),
        channels=shapes[kernel(library, architecture, "head/ppm/output/conv")][0],
        pooling_order=names.pooling_orders[architecture],
        dropout=names.dropout[architecture],
        auxiliary=hidden is not None,
        auxiliary_channels=hidden[0] if hidden else None,
    )
    return dataclasses.replace(base, model=model, pretrained=False)


def check_network(library: Library, model: SegmenterConfig) -> None:
    """Checks that a library has a network, so that its files can hold the weights of a run.

    Args:
        library: name of the library.
        model: config of the run's network.

    Raises:
        ConfigError: the library has no such network; the message names the fields that differ.
    """
    backbone = model.backbone
    choices: list[tuple[str, str, tuple[str, ...]]] = [
        ("model.architecture", model.architecture, ARCHITECTURES),
        ("model.backbone.stem", backbone.stem, (_STEMS[library], "conv7")),
    ]
    for name, value, allowed in choices:
        check(value in allowed, name, f"{' or '.join(map(repr, allowed))} for {library}", value)
    # What a library cannot change has the default of a config.
    standard = ResNetConfig(
        backbone.depth,
        compressed_channels=backbone.compressed_channels,
        norm=backbone.norm,
        output_stride=backbone.output_stride,
        width=backbone.width,
        stem=backbone.stem,
    )
    if library in _DEFORMABLE:
        standard = dataclasses.replace(
            standard,
            deformable_stages=backbone.deformable_stages,
            deformable_groups=backbone.deformable_groups,
        )
    theirs = dataclasses.replace(
        model,
        backbone=standard,
        ppm="bilinear",
        fpn="bilinear",
        fuse="bilinear",
        pooling_order=LIBRARIES[library].pooling_orders[model.architecture],
    )
    changes = differences(model, theirs, "model.")
    check(not changes, "the network", f"one that {library} has", "; ".join(changes))


def _architecture(library: Library, shapes: Mapping[str, Sequence[int]]) -> Architecture | None:
    """The architecture whose head has its first and last convolutions in the files."""
    own = {"upernet": "head/lateral_2/conv", "pspnet": "head/ppm/bin_1/conv"}
    for architecture in ARCHITECTURES:
        needed = (own[architecture], "head/ppm/output/conv", CLASSIFIER)
        if all(kernel(library, architecture, module) in shapes for module in needed):
            return architecture
    return None
