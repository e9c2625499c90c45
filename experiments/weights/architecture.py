"""Describes networks by the names and shapes of their arrays, for messages about weights."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from experiments.models.resnet_config import BLOCKS, Depth
from experiments.weights.deformable import deformable
from experiments.weights.formats import recognise

# An array that all ResNets of torchvision and timm have.
_FIRST_BLOCK = "layer1.0.conv1.weight"
_STAGES = (1, 2, 3, 4)
# An array that all MobileNetV2 of torchvision have.
_FIRST_DEPTHWISE = "features.1.conv.0.0.weight"
# The convolutions of mmseg's stem, and the stages of detectron2, in torchvision's names.
_STEM_NAMES = {"stem.0.": "conv1.", "stem.3.": "conv2.", "stem.6.": "conv3."}
_STAGE = re.compile(r"^res([2345])\.")
# The predictor of a deformable convolution in detectron2 and in early versions of mmdet, and now.
_OFFSETS = ".conv2_offset.", ".conv2.conv_offset."

# Parts of names that other networks have. The first match counts.
_OTHERS = {
    "blocks.0.attn.": "a vision transformer",
    "encoder_layer_0.": "a vision transformer of torchvision",
    "patch_embed.": "a transformer",
    "conv_stem.": "an EfficientNet or a MobileNet of timm",
    "blocks.0.conv_dw.": "a ConvNeXt",
    "denseblock1.": "a DenseNet",
    "embedder.embedder.": "a ResNet of transformers, with other names",
    "res2.0.": "a ResNet of detectron2, with other names",
}

type _Shapes = Mapping[str, Sequence[int]]


def architecture(shapes: _Shapes) -> str:
    """Describes the network that has arrays of given names and shapes.

    Args:
        shapes: shapes by PyTorch's name, without a prefix that all names share.

    Returns:
        A text such as "ResNet-50 (bottlenecks 3, 4, 6, 3; width 64; stem 7x7 of 3 channels; 1000
        classes)", "MobileNetV2 of torchvision (...)" or "mmdet's Mask R-CNN, ResNet-50 (...),
        FPN_CARAFE, 80 classes"; or "no ResNet, but ..." with a hint.
    """
    known = recognise(shapes)
    if known is not None and known.task != "classification":
        parts = _NETWORKS[known.library, known.task](shapes)
        parts.insert(1, _backbone(shapes))
        return ", ".join(filter(None, parts))
    if _is_residual(shapes):
        classes = shapes.get("fc.weight")
        return _residual(shapes, f"{classes[0]} classes" if classes else "no classifier fc")
    holders = sorted({_prefix(name) for name in shapes if name.endswith(f".{_FIRST_BLOCK}")})
    if holders:
        others = sorted({f"{name.partition('.')[0]}." for name in shapes} - set(holders))
        return (
            f"a ResNet below {', '.join(holders)} beside {', '.join(others) or 'nothing'}: save "
            "only its own entries"
        )
    if _FIRST_DEPTHWISE in shapes:
        return _mobilenet(shapes)
    for part, network in _OTHERS.items():
        if any(part in name for name in shapes):
            return f"no ResNet, but {network}, by {part!r} in its names"
    return f"no ResNet, by its names {list(shapes)[:3]}" if shapes else "nothing: it is empty"


def _mmdet(shapes: _Shapes) -> list[str]:
    box = "roi_head.bbox_head.fc_cls.weight"
    if box not in shapes:
        old = "bbox_head.fc_cls.weight" in shapes
        return ["a detector of mmdet 1.x" if old else f"a detector of mmdet without {box}"]
    return [
        f"mmdet's {_detector(shapes, 'roi_head.mask_head.')}",
        "FPN_CARAFE" if _has(shapes, "neck.upsample_modules.") else "FPN",
        f"{shapes[box][0] - 1} classes",
    ]


def _torchvision(shapes: _Shapes) -> list[str]:
    box = "roi_heads.box_predictor.cls_score.weight"
    if box not in shapes:
        return [f"a detector of torchvision without {box}"]
    return [
        f"torchvision's {_detector(shapes, 'roi_heads.mask_predictor.')}",
        "FPN" if _has(shapes, "backbone.fpn.") else "no FPN",
        f"{shapes[box][0]} classes with the background",
    ]


def _detectron2(shapes: _Shapes) -> list[str]:
    box = "roi_heads.box_predictor.cls_score.weight"
    if box not in shapes:
        return [f"a detector of detectron2 without {box}"]
    return [
        f"detectron2's {_detector(shapes, 'roi_heads.mask_head.')}",
        "FPN" if _has(shapes, "backbone.fpn_lateral") else "no FPN",
        f"{shapes[box][0] - 1} classes",
    ]


def _detector(shapes: _Shapes, masks: str) -> str:
    return "Mask R-CNN" if _has(shapes, masks) else "Faster R-CNN"


def _mmseg(shapes: _Shapes) -> list[str]:
    if _has(shapes, "decode_head.lateral_convs."):
        head = "UperNet"
    else:
        head = "PSPNet" if _has(shapes, "decode_head.psp_modules.") else "network of another head"
    auxiliary = "" if _has(shapes, "auxiliary_head.") else "no auxiliary head"
    return [f"mmseg's {head}", auxiliary, _classes(shapes, "decode_head.conv_seg.weight")]


def _csail(shapes: _Shapes) -> list[str]:
    if _has(shapes, "ppm_last_conv."):
        head, classifier = "UperNet", "conv_last.1.weight"
    elif _has(shapes, "ppm."):
        head, classifier = "PSPNet", "conv_last.4.weight"
    else:
        head, classifier = "network of another decoder", "conv_last.weight"
    auxiliary = "" if _has(shapes, "cbr_deepsup.") else "no deep supervision"
    return [f"CSAILVision's {head}", auxiliary, _classes(shapes, classifier)]


_NETWORKS: dict[tuple[str, str], Callable[[_Shapes], list[str]]] = {
    ("mmdet", "detection"): _mmdet,
    ("torchvision", "detection"): _torchvision,
    ("detectron2", "detection"): _detectron2,
    ("mmseg", "segmentation"): _mmseg,
    ("csail", "segmentation"): _csail,
}


def _has(shapes: _Shapes, start: str) -> bool:
    return any(name.startswith(start) for name in shapes)


def _classes(shapes: _Shapes, classifier: str) -> str:
    shape = shapes.get(classifier)
    return f"{shape[0]} classes" if shape else "no classifier"


def backbone_shapes(shapes: _Shapes) -> dict[str, Sequence[int]]:
    """The shapes of the ResNet of a detector or segmenter, by torchvision's names.

    Args:
        shapes: shapes of the whole network, by the names in the file.

    Returns:
        The shapes; empty if the network has no ResNet.
    """
    for prefix in ("backbone.body.", "backbone.bottom_up.", "backbone.", ""):
        own = {
            _torchvision_name(name[len(prefix) :]): shape
            for name, shape in shapes.items()
            if name.startswith(prefix)
        }
        if _is_residual(own):
            return own
    return {}


def depth(shapes: _Shapes) -> Depth | None:
    """The depth of a ResNet; ``None`` if no standard ResNet has these blocks.

    Args:
        shapes: shapes by torchvision's name.
    """
    bottlenecks = "layer1.0.conv3.weight" in shapes
    blocks = tuple(_blocks(shapes, stage) for stage in _STAGES)
    depths = get_args(Depth)
    return next((d for d in depths if BLOCKS[d] == blocks and (d >= 50) == bottlenecks), None)


def _backbone(shapes: _Shapes) -> str:
    """Describes the ResNet of a detector or segmenter."""
    own = backbone_shapes(shapes)
    return _residual(own) if own else "no ResNet"


def _torchvision_name(name: str) -> str:
    for stem, convolution in _STEM_NAMES.items():
        if name.startswith(stem):
            return convolution + name[len(stem) :]
    name = name.removeprefix("stem.").replace(*_OFFSETS)
    return _STAGE.sub(lambda found: f"layer{int(found[1]) - 1}.", name)


def _is_residual(shapes: _Shapes) -> bool:
    return _FIRST_BLOCK in shapes and any(_blocks(shapes, stage) for stage in _STAGES[1:])


def _prefix(name: str) -> str:
    return name[: -len(_FIRST_BLOCK)]


def _residual(shapes: _Shapes, classes: str = "") -> str:
    bottlenecks = "layer1.0.conv3.weight" in shapes
    blocks = tuple(_blocks(shapes, stage) for stage in _STAGES)
    kind = "bottlenecks" if bottlenecks else "basic blocks"
    parts = [f"{kind} {', '.join(map(str, blocks))}"]
    if spatial := _convolution(shapes, "layer1.0.conv2.weight"):
        out, into, *_ = spatial
        parts.append(f"width {out}")
        parts += [f"{out // into} groups"] if 0 < into < out else []
    stem = [_convolution(shapes, f"conv{index}.weight") for index in (1, 2, 3)]
    if found := [shape for shape in stem if shape]:
        sizes = ", ".join("x".join(map(str, size)) for _, _, *size in found)
        channels = ", ".join(str(into) for _, into, *_ in found)
        parts.append(f"stem {sizes} of {channels} channels")
    else:
        parts.append("another stem")
    parts += [text] if (text := deformable(shapes).describe()) else []
    parts += ["squeeze-and-excitation"] if any(".se." in name for name in shapes) else []
    parts += [classes] if classes else []
    name = f"ResNet-{found_depth}" if (found_depth := depth(shapes)) else "a ResNet"
    return f"{name} ({'; '.join(parts)})"


def _mobilenet(shapes: _Shapes) -> str:
    blocks = {name.split(".")[1] for name in shapes if re.match(r"features\.\d+\.conv\.", name)}
    parts = [f"{len(blocks)} blocks"]
    if stem := _convolution(shapes, "features.0.0.weight"):
        parts.append(f"stem of {stem[1]} to {stem[0]} channels")
    parts.append(_classes(shapes, "classifier.1.weight"))
    return f"MobileNetV2 of torchvision ({'; '.join(parts)})"


def _convolution(shapes: _Shapes, name: str) -> Sequence[int] | None:
    """Returns the shape ``[O, I, H, W]`` of a convolution; None for another array."""
    shape = shapes.get(name, ())
    return shape if len(shape) == 4 else None


def _blocks(shapes: _Shapes, stage: int) -> int:
    names = [name for name in shapes if name.startswith(f"layer{stage}.")]
    return len({name.split(".")[1] for name in names})
