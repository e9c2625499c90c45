"""The names of a segmenter's arrays in the files of CSAILVision and mmseg.

Both libraries concatenate in the order of the networks here: in pyramid pooling C5 and then the
bins from 1 to 6, in the fusion P2 to P5. No channels are permuted.
"""

import dataclasses
from collections.abc import Callable

from experiments.segmentation.conversion.library import Library
from experiments.segmentation.model.config import PoolingOrder, SegmenterConfig
from experiments.segmentation.model.pyramid_pooling import BINS
from experiments.weights import resnets
from experiments.weights.layout import Layout, Path, Source, counter

# Buffers of CSAILVision's synchronised BatchNorm, from which training computes the statistics.
_SUMS = ("._tmp_running_mean", "._tmp_running_var", "._running_iter")
_LEVELS = (2, 3, 4)
CLASSIFIER = "head/classifier/conv"


@dataclasses.dataclass(frozen=True)
class Names:
    """The modules of a library, for the architectures ``"upernet"`` and ``"pspnet"``.

    Attributes:
        modules: function from an architecture to the name in the file of each module of the head
            and the auxiliary head, by its path such as ``"head/ppm/bin_1/conv"``.
        backbone: text before the names of the backbone.
        pooling_orders: order of resizing and convolution in pyramid pooling, by architecture.
        dropout: probability with which a channel is dropped in training, by architecture.
    """

    modules: Callable[[str], dict[str, str]]
    backbone: str
    pooling_orders: dict[str, PoolingOrder]
    dropout: dict[str, float]


def _csail(architecture: str) -> dict[str, str]:
    def layer(ours: str, theirs: str, first: int = 0) -> dict[str, str]:
        return {f"{ours}/conv": f"{theirs}.{first}", f"{ours}/bn": f"{theirs}.{first + 1}"}

    modules = layer("auxiliary/hidden", "cbr_deepsup")
    modules["auxiliary/classifier/conv"] = "conv_last_deepsup"
    if architecture == "pspnet":
        for index, bins in enumerate(BINS):
            modules |= layer(f"head/ppm/bin_{bins}", f"ppm.{index}", 1)
        # Between them are a ReLU and dropout.
        return modules | layer("head/ppm/output", "conv_last") | {CLASSIFIER: "conv_last.4"}
    for index, bins in enumerate(BINS):
        modules |= layer(f"head/ppm/bin_{bins}", f"ppm_conv.{index}")
    for index, level in enumerate(_LEVELS):
        modules |= layer(f"head/lateral_{level}", f"fpn_in.{index}")
        modules |= layer(f"head/output_{level}", f"fpn_out.{index}.0")
    modules |= layer("head/ppm/output", "ppm_last_conv")
    return modules | layer("head/fusion", "conv_last.0") | {CLASSIFIER: "conv_last.1"}


def _mmseg(architecture: str) -> dict[str, str]:
    layers = {"head/ppm/output": "decode_head.bottleneck"}
    for index, bins in enumerate(BINS):
        layers[f"head/ppm/bin_{bins}"] = f"decode_head.psp_modules.{index}.1"
    if architecture == "upernet":
        for index, level in enumerate(_LEVELS):
            layers[f"head/lateral_{level}"] = f"decode_head.lateral_convs.{index}"
            layers[f"head/output_{level}"] = f"decode_head.fpn_convs.{index}"
        layers["head/fusion"] = "decode_head.fpn_bottleneck"
    layers["auxiliary/hidden"] = "auxiliary_head.convs.0"
    modules = {
        f"{ours}/{part}": f"{theirs}.{part}"
        for ours, theirs in layers.items()
        for part in ("conv", "bn")
    }
    modules["auxiliary/classifier/conv"] = "auxiliary_head.conv_seg"
    return modules | {CLASSIFIER: "decode_head.conv_seg"}


LIBRARIES: dict[Library, Names] = {
    "csail": Names(
        _csail,
        "",
        {"upernet": "resize_first", "pspnet": "convolution_first"},
        {"upernet": 0.0, "pspnet": 0.1},
    ),
    "mmseg": Names(
        _mmseg,
        "backbone.",
        dict.fromkeys(("upernet", "pspnet"), "convolution_first"),
        dict.fromkeys(("upernet", "pspnet"), 0.1),
    ),
}


def layout(library: Library, model: SegmenterConfig) -> Layout:
    """The layout of a library's files, for a model.

    Args:
        library: name of the library.
        model: config of a UperNet or PSPNet with bilinear upsamplers.
    """
    names = LIBRARIES[library]
    modules = names.modules(model.architecture)
    backbone = resnets.v1c if model.backbone.stem == "v1c" else resnets.torchvision

    def source(path: Path) -> Source:
        _, part, *rest = path
        if part == "backbone":
            return backbone(rest, names.backbone)
        return resnets.source_in_module(modules["/".join(path[1:-1])], path[-1])

    def unused(name: str) -> str | None:
        if library == "csail" and name.endswith(_SUMS):
            return "a sum of the synchronised BatchNorm, which only training needs"
        return counter(name)

    return Layout(library, source, unused)


def in_backbone(library: Library, name: str) -> bool:
    """Whether an array of a file belongs to the backbone.

    Args:
        library: name of the library.
        name: name of the array.
    """
    head = {
        theirs.partition(".")[0]
        for architecture in ("upernet", "pspnet")
        for theirs in LIBRARIES[library].modules(architecture).values()
    }
    return name.partition(".")[0] not in head


def kernel(library: Library, architecture: str, module: str) -> str:
    """The name of a convolution's kernel in a file.

    Args:
        library: name of the library.
        architecture: ``"upernet"`` or ``"pspnet"``.
        module: path of the convolution here, such as ``"head/classifier/conv"``.
    """
    return f"{LIBRARIES[library].modules(architecture)[module]}.weight"
