"""Tests how formats are recognised and networks are described."""

import re

import pytest

from experiments.weights.architecture import architecture
from experiments.weights.formats import recognise
from tests.experiments.weights.torch_states import DEEP, random_state


def resnet(prefix="", rename=lambda name: name, **options):
    shapes = {
        name: value.shape for name, value in random_state(True, (3, 4, 6, 3), **options).items()
    }
    return {prefix + rename(name): shape for name, shape in shapes.items() if "fc." not in name}


def of_detectron2(name):
    if name.startswith("conv1"):
        return f"stem.{name}"
    stage, dot, rest = name.partition(".")
    return f"res{int(stage[-1]) + 1}{dot}{rest}" if stage.startswith("layer") else name


def of_v1c(name):
    stem = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4, "conv3": 6, "bn3": 7}
    module, dot, rest = name.partition(".")
    return f"stem.{stem[module]}{dot}{rest}" if module in stem else name


TORCHVISION = resnet("backbone.body.") | {
    "backbone.fpn.inner_blocks.0.0.weight": (1,),
    "roi_heads.box_predictor.cls_score.weight": (91, 8),
}
MMDET = resnet("backbone.") | {
    "neck.lateral_convs.0.conv.weight": (1,),
    "rpn_head.rpn_cls.weight": (3, 4, 1, 1),
    "roi_head.bbox_head.fc_cls.weight": (81, 8),
}
FORMATS = {
    "ResNet-50 .*no classifier": ("torchvision", "classification", resnet()),
    "torchvision's Faster R-CNN, ResNet-50 .*, FPN, 91 classes": (
        "torchvision",
        "detection",
        TORCHVISION,
    ),
    "torchvision's Mask R-CNN": (
        "torchvision",
        "detection",
        TORCHVISION | {"roi_heads.mask_predictor.conv5_mask.weight": (1,)},
    ),
    "detectron2's Mask R-CNN, ResNet-50 .*stem 7x7.*, FPN, 80 classes": (
        "detectron2",
        "detection",
        resnet("backbone.bottom_up.", of_detectron2)
        | {
            "backbone.fpn_lateral2.weight": (1,),
            "roi_heads.box_predictor.cls_score.weight": (81, 8),
            "roi_heads.mask_head.deconv.weight": (1,),
        },
    ),
    "mmdet's Faster R-CNN, ResNet-50 .*, FPN, 80 classes": ("mmdet", "detection", MMDET),
    "mmdet's Mask R-CNN, ResNet-50 .*, FPN_CARAFE, 80 classes": (
        "mmdet",
        "detection",
        MMDET
        | {
            "neck.upsample_modules.0.channel_compressor.bias": (1,),
            "roi_head.mask_head.conv_logits.weight": (1,),
        },
    ),
    "a detector of mmdet 1.x, ResNet-50": (
        "mmdet",
        "detection",
        resnet("backbone.") | {"bbox_head.fc_cls.weight": (81, 8)},
    ),
    "CSAILVision's UperNet, ResNet-50 .*stem 3x3, 3x3, 3x3 .*, 150 classes": (
        "csail",
        "segmentation",
        resnet(stem=DEEP) | {"ppm_last_conv.0.weight": (1,), "conv_last.1.weight": (150, 8, 1, 1)},
    ),
    "CSAILVision's PSPNet, no ResNet, no deep supervision, 21 classes": (
        "csail",
        "segmentation",
        {"ppm.0.1.weight": (1,), "conv_last.4.weight": (21, 8, 1, 1)},
    ),
    "mmseg's UperNet, ResNet-50 .*stem 3x3, 3x3, 3x3 .*, no auxiliary head, 150 classes": (
        "mmseg",
        "segmentation",
        resnet("backbone.", of_v1c, stem=DEEP)
        | {
            "decode_head.lateral_convs.0.conv.weight": (1,),
            "decode_head.conv_seg.weight": (150, 8, 1, 1),
        },
    ),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("description", FORMATS)
def test_formats_are_recognised_by_names(description, prefix):
    library, task, shapes = FORMATS[description]
    found = recognise([prefix + name for name in shapes])
    assert (found.library, found.task) == (library, task)
    assert library in found.command
    assert task in found.command


@pytest.mark.parametrize("description", FORMATS)
def test_networks_are_described(description):
    text = architecture(FORMATS[description][-1])
    assert re.match(description, text), text


@pytest.mark.parametrize(
    "names", [[], ["blocks.0.attn.qkv.weight"], ["backbone.layer1.0.conv1.weight"]]
)
def test_other_names_are_not_recognised(names):
    assert recognise(names) is None
