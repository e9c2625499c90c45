"""Recognises a detector by the names and shapes of its arrays."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import NamedTuple, cast

from experiments.detection.conversion.libraries import Library, Names
from experiments.detection.model.config import BoxHeadConfig, DetectorConfig, MaskHeadConfig
from experiments.models.fpn_config import FPNConfig
from experiments.models.resnet_config import BLOCKS, Depth, ResNetConfig
from experiments.resamplers.carafe_config import CarafeConfig
from experiments.weights.architecture import architecture, backbone_shapes
from experiments.weights.deformable import Deformable, deformable
from experiments.weights.files import WeightsError

type Shapes = Mapping[str, tuple[int, ...]]

CLASSES = 80  # COCO's
_TORCHVISION_ROWS = 91
_WANTED = (
    "a Faster R-CNN or Mask R-CNN of COCO with a ResNet and FPN would fit, of torchvision, of "
    "detectron2, or of mmdet 2 or later, there also with FPN_CARAFE and CARAFE in the mask head"
)
_CLASSIFICATION = (
    "`python -m experiments.classification convert` reads ResNets of torchvision and timm"
)
_SEGMENTATION = (
    "`python -m experiments.segmentation convert` reads UperNet and PSPNet of CSAILVision and mmseg"
)


class Recognised(NamedTuple):
    """A detector in a file.

    Attributes:
        library: library that wrote the file.
        names: version of the library's names; the old names of mmdet are only those of the offsets
            of deformable convolutions.
        config: config of the detector's network.
        has_counters: whether the file has the counters of PyTorch's BatchNorm. Files without them
            are of detectors whose frozen norms have a layer of their own.
    """

    library: Library
    names: Names
    config: DetectorConfig
    has_counters: bool

    def describe(self) -> str:
        """The network, such as ``"Faster R-CNN, ResNet-50, FPN with nearest, 80 classes"``."""
        model = self.config
        kind = "Mask R-CNN" if model.masks else "Faster R-CNN"
        neck = {"fpn": "FPN", "fpn_carafe": "FPN_CARAFE"}[model.neck.kind]
        backbone = model.backbone
        stages = Deformable(backbone.deformable_stages, backbone.deformable_groups).describe()
        resnet = f"ResNet-{backbone.depth}" + f" with {stages}" * bool(stages)
        parts = [kind, resnet, f"{neck} with {model.neck.upsampler}"]
        parts += [f"mask head with {model.mask.upsampler}"] if model.masks else []
        return ", ".join([*parts, f"{CLASSES} classes"])


class _Arrays(NamedTuple):
    """The arrays of a library's files that tell detectors apart, by patterns of their names.

    Attributes:
        stem: the kernel of the first convolution of the backbone.
        block: a block in the third stage of the backbone, Res-4.
        bottleneck: an array that bottlenecks have and basic blocks do not.
        output: the kernel of the finest output of the neck.
        hidden: the kernel of the first fully connected layer.
        classes: the bias of the classifier.
        boxes: the bias of the regressor of boxes.
        masks: the bias of the last layer of the mask head.
        mask_layer: the kernel of a convolution of the mask head.
        deconvolution: the kernel of the deconvolution of the mask head.
    """

    stem: str
    block: str
    bottleneck: str
    output: str
    hidden: str
    classes: str
    boxes: str
    masks: str
    mask_layer: str
    deconvolution: str


_ARRAYS: dict[Library, _Arrays] = {
    "mmdet": _Arrays(
        stem=r"backbone\.conv1\.weight",
        block=r"backbone\.layer3\.(\d+)\..*",
        bottleneck=r"backbone\.layer1\.0\.conv3\.weight",
        output=r"neck\.fpn_convs\.0\.conv\.weight",
        hidden=r"roi_head\.bbox_head\.shared_fcs\.0\.weight",
        classes=r"roi_head\.bbox_head\.fc_cls\.bias",
        boxes=r"roi_head\.bbox_head\.fc_reg\.bias",
        masks=r"roi_head\.mask_head\.conv_logits\.bias",
        mask_layer=r"roi_head\.mask_head\.convs\.\d+\.conv\.weight",
        deconvolution=r"roi_head\.mask_head\.upsample\.weight",
    ),
    "torchvision": _Arrays(
        stem=r"backbone\.body\.conv1\.weight",
        block=r"backbone\.body\.layer3\.(\d+)\..*",
        bottleneck=r"backbone\.body\.layer1\.0\.conv3\.weight",
        output=r"backbone\.fpn\.layer_blocks\.0(\.0)?\.weight",
        hidden=r"roi_heads\.box_head\.fc6\.weight",
        classes=r"roi_heads\.box_predictor\.cls_score\.bias",
        boxes=r"roi_heads\.box_predictor\.bbox_pred\.bias",
        masks=r"roi_heads\.mask_predictor\.mask_fcn_logits\.bias",
        mask_layer=r"roi_heads\.mask_head\.(\d+\.0|mask_fcn\d+)\.weight",
        deconvolution=r"roi_heads\.mask_predictor\.conv5_mask\.weight",
    ),
    "detectron2": _Arrays(
        stem=r"backbone\.bottom_up\.stem\.conv1\.weight",
        block=r"backbone\.bottom_up\.res4\.(\d+)\..*",
        bottleneck=r"backbone\.bottom_up\.res2\.0\.conv3\.weight",
        output=r"backbone\.fpn_output2\.weight",
        hidden=r"roi_heads\.box_head\.fc1\.weight",
        classes=r"roi_heads\.box_predictor\.cls_score\.bias",
        boxes=r"roi_heads\.box_predictor\.bbox_pred\.bias",
        masks=r"roi_heads\.mask_head\.predictor\.bias",
        mask_layer=r"roi_heads\.mask_head\.mask_fcn\d+\.weight",
        deconvolution=r"roi_heads\.mask_head\.deconv\.weight",
    ),
}
# The beginning of a name that all detectors of a library have, and no others.
_LIBRARIES: dict[Library, str] = {
    "mmdet": r"(roi_head|bbox_head|rpn_head)\.",
    "torchvision": r"backbone\.body\.",
    "detectron2": r"backbone\.(bottom_up|res2)\.",
}
_COUNTER = r".*\.num_batches_tracked"

# Networks that are no two-stage detector with FPN, by the beginning of one of their names.
_OTHERS = {
    r"decode_head\.": ("a segmentation network of mmseg", _SEGMENTATION),
    r"(conv_last(_deepsup)?|ppm(_conv)?|fpn_in)\.": (
        "the decoder of a segmentation network of CSAILVision",
        _SEGMENTATION,
    ),
    r"aux_classifier\.|classifier\.\d\.convs\.": (
        "a segmentation network of torchvision",
        _SEGMENTATION,
    ),
    # Box heads of two stages in mmdet 1 have other names, or a number where there are several.
    r"head\.(classification_head|cls_subnet)\.|bbox_head\.(?!shared_|fc_cls|fc_reg|\d)": (
        "a detector of one stage, such as RetinaNet",
        "",
    ),
    r"roi_heads\.keypoint_": ("a Keypoint R-CNN", ""),
    r"roi_heads\.res5\.": ("a C4 model of detectron2, without FPN", ""),
    r"backbone\.res5\.": ("a DC5 model of detectron2, without FPN", ""),
    # A ResNet of mmdet or detectron2 may have deformable convolutions.
    r"(?!backbone\.((bottom_up\.)?res|layer)\d\.\d+\.conv2(\.conv|)_offset\.)"
    r".*\.conv\d?_offset\.": (
        "a detector with deformable convolutions that are no 3x3 convolutions of a ResNet of mmdet "
        "or detectron2",
        "",
    ),
    r"roi_heads?\.(bbox_head|box_head|box_predictor)\.0\.(shared|fc|cls|bbox)": (
        "a Cascade R-CNN, which has several box heads",
        "",
    ),
    r"backbone\.fpn\.inner_blocks\.0\.1\.": (
        "a detector of torchvision's second version, whose FPN has normalisations",
        "",
    ),
    r"backbone\.body\.\d+\.": ("a detector of torchvision with a MobileNet", ""),
    r"backbone\.fpn_lateral2\.norm\.": (
        "a detector of detectron2 whose FPN has normalisations",
        "",
    ),
    r"bbox_head\.(shared_fcs|fc_cls)": (
        "a detector of mmdet 1, which had the background first and boxes of inclusive corners",
        "the same model of mmdet 2 or later would fit: its boxes differ, so a conversion of names "
        "alone is not enough",
    ),
    r"fc\.(weight|bias)": ("a classifier", _CLASSIFICATION),
}


def recognise(shapes: Shapes, library: Library | None = None) -> Recognised:
    """Recognises the detector in a file.

    Args:
        shapes: shapes of the arrays by name, without a prefix that all names share.
        library: library that wrote the file; by default it is recognised too.

    Returns:
        The detector. Only shapes that determine its config were looked at: the rest is checked when
        the weights are loaded.

    Raises:
        WeightsError: the file is of another network or another library, or has another number of
            classes; the message says what it is, and what would fit.
    """
    for pattern, (network, advice) in _OTHERS.items():
        if _named(shapes, pattern):
            raise _unfit(network, advice)
    found = [name for name, pattern in _LIBRARIES.items() if _named(shapes, pattern)]
    if not found:
        raise _unfit(architecture(shapes))
    if library is not None and found != [library]:
        raise _unfit(f"a detector with the names of {' and '.join(found)}, not of {library}")
    library = found[0]
    arrays = _ARRAYS[library]
    stem = _shape(shapes, arrays.stem, 4)
    output = _shape(shapes, arrays.output, 4)
    hidden = _shape(shapes, arrays.hidden, 2)
    classes = _shape(shapes, arrays.classes, 1)
    boxes = _shape(shapes, arrays.boxes, 1)
    if stem is None or output is None or hidden is None or classes is None or boxes is None:
        raise _unfit(f"a network of {library} that is no Faster R-CNN or Mask R-CNN with FPN")
    _check_classes(library, classes[0], boxes[0])
    stages = deformable(backbone_shapes(shapes))
    if stages.problem:
        raise _unfit(f"a detector of {library} with {stages.problem}")
    channels = output[0]
    neck = _mmdet_neck(shapes) if library == "mmdet" else FPNConfig()
    masks = _shape(shapes, arrays.masks, 1)
    side = math.isqrt(hidden[1] // channels)
    config = DetectorConfig(
        backbone=ResNetConfig(
            _depth(shapes, arrays),
            norm="frozen",
            width=stem[0],
            deformable_stages=stages.stages,
            deformable_groups=stages.groups,
        ),
        neck=dataclasses.replace(neck, channels=channels),
        box=BoxHeadConfig(side, features=hidden[0], class_agnostic=boxes == (4,)),
        masks=masks is not None,
        mask=MaskHeadConfig() if masks is None else _mask_head(shapes, arrays, masks[0]),
    )
    old = {
        "torchvision": "rpn.head.conv.weight" in shapes,
        "mmdet": _named(shapes, r"backbone\.layer\d\.\d+\.conv2_offset\."),
        "detectron2": False,
    }[library]
    return Recognised(library, "old" if old else "new", config, _named(shapes, _COUNTER))


def _check_classes(library: Library, classes: int, boxes: int) -> None:
    rows = _TORCHVISION_ROWS if library == "torchvision" else CLASSES + 1
    if classes != rows:
        rows_of_coco = "81 with the background" if library != "torchvision" else "91, from id 0 on"
        raise _unfit(
            f"a detector of {library} with {classes} rows of classes, and COCO has {rows_of_coco}"
        )
    if library == "mmdet" and boxes == 4 * (CLASSES + 1):
        raise _unfit(
            "a detector of mmdet 1, by its 324 rows of boxes: the background is first, and has "
            "boxes of its own"
        )


def _depth(shapes: Shapes, arrays: _Arrays) -> Depth:
    matches = (re.fullmatch(arrays.block, name) for name in shapes)
    blocks = len({match[1] for match in matches if match})
    bottlenecks = _named(shapes, arrays.bottleneck)
    for depth, (_, _, third, _) in BLOCKS.items():
        if third == blocks and (depth >= 50) == bottlenecks:
            return cast(Depth, depth)
    raise _unfit(f"a detector whose backbone has {blocks} blocks in its third stage")


def _mmdet_neck(shapes: Shapes) -> FPNConfig:
    if not _named(shapes, r"neck\.lateral_convs\.4\."):
        return FPNConfig()
    if not _named(shapes, r"neck\.upsample_modules\."):
        return FPNConfig("fpn_carafe")
    return FPNConfig("fpn_carafe", "carafe", carafe=_carafe(shapes, "neck.upsample_modules.0"))


def _mask_head(shapes: Shapes, arrays: _Arrays, masks: int) -> MaskHeadConfig:
    kernels = [shape for name, shape in shapes.items() if re.fullmatch(arrays.mask_layer, name)]
    config = MaskHeadConfig(layers=len(kernels), class_agnostic=masks == 1)
    if kernels:
        config = dataclasses.replace(config, features=kernels[0][0])
    if _named(shapes, arrays.deconvolution):
        return config
    carafe = _carafe(shapes, "roi_head.mask_head.upsample")
    return dataclasses.replace(config, upsampler="carafe", carafe=carafe)


def _carafe(shapes: Shapes, name: str) -> CarafeConfig:
    encoder = shapes.get(f"{name}.content_encoder.weight", ())
    if len(encoder) != 4:
        raise _unfit(f"a detector of mmdet with another upsampler than CARAFE in {name}")
    outputs, compressed, size, _ = encoder
    taps = outputs // 4  # of a factor of 2
    kernel_size = math.isqrt(taps)
    if outputs != 4 * kernel_size**2 or kernel_size % 2 == 0:
        raise _unfit(
            f"a detector of mmdet whose CARAFE in {name} has {outputs} logits: they must be 4 for "
            "each tap of one odd kernel, as for a factor of 2 and one group"
        )
    return CarafeConfig(compressed, size, kernel_size)


def _named(shapes: Shapes, beginning: str) -> bool:
    return any(re.match(beginning, name) for name in shapes)


def _shape(shapes: Shapes, pattern: str, rank: int) -> tuple[int, ...] | None:
    """The shape of the first array whose name matches; None if there is none of this rank."""
    found = (shape for name, shape in shapes.items() if re.fullmatch(pattern, name))
    return next((shape for shape in found if len(shape) == rank), None)


def _unfit(network: str, advice: str = "") -> WeightsError:
    return WeightsError(f"the file holds {network}; {advice or _WANTED}")
