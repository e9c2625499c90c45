"""Tests the names of ResNets in the files of several libraries."""

import pytest

from experiments.weights.resnets import (
    classification_layout,
    detectron2,
    early_mmdet,
    torchvision,
    v1c,
)

NAMES = [
    # Path, and names of torchvision, mmseg and detectron2.
    ("conv1/kernel", "conv1.weight", "stem.0.weight", "stem.conv1.weight"),
    ("bn1/scale", "bn1.weight", "stem.1.weight", "stem.conv1.norm.weight"),
    ("bn1/mean", "bn1.running_mean", "stem.1.running_mean", "stem.conv1.norm.running_mean"),
    ("conv2/kernel", "conv2.weight", "stem.3.weight", None),
    ("bn3/var", "bn3.running_var", "stem.7.running_var", None),
    (
        "layer1_0/downsample_conv/kernel",
        "layer1.0.downsample.0.weight",
        "layer1.0.downsample.0.weight",
        "res2.0.shortcut.weight",
    ),
    (
        "layer4_2/downsample_bn/bias",
        "layer4.2.downsample.1.bias",
        "layer4.2.downsample.1.bias",
        "res5.2.shortcut.norm.bias",
    ),
    (
        "layer3_22/conv3/kernel",
        "layer3.22.conv3.weight",
        "layer3.22.conv3.weight",
        "res4.22.conv3.weight",
    ),
    ("layer2_1/bn2/bias", "layer2.1.bn2.bias", "layer2.1.bn2.bias", "res3.1.conv2.norm.bias"),
    (
        "layer2_0/conv2/kernel",
        "layer2.0.conv2.weight",
        "layer2.0.conv2.weight",
        "res3.0.conv2.weight",
    ),
    (
        "layer2_0/conv2/conv_offset/kernel",
        "layer2.0.conv2.conv_offset.weight",
        "layer2.0.conv2.conv_offset.weight",
        "res3.0.conv2_offset.weight",
    ),
    (
        "layer4_2/conv2/conv_offset/bias",
        "layer4.2.conv2.conv_offset.bias",
        "layer4.2.conv2.conv_offset.bias",
        "res5.2.conv2_offset.bias",
    ),
]


@pytest.mark.parametrize(("path", "torchvision_name", "v1c_name", "detectron2_name"), NAMES)
def test_names_of_a_resnet(path, torchvision_name, v1c_name, detectron2_name):
    path = path.split("/")
    assert torchvision(path, "backbone.body.").name == f"backbone.body.{torchvision_name}"
    assert v1c(path, "backbone.").name == f"backbone.{v1c_name}"
    if detectron2_name:
        found = detectron2(path, "backbone.bottom_up.").name
        assert found == f"backbone.bottom_up.{detectron2_name}"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("layer2_0/conv2/conv_offset/kernel", "backbone.layer2.0.conv2_offset.weight"),
        ("layer2_0/conv2/kernel", "backbone.layer2.0.conv2.weight"),
        ("layer2_0/bn2/scale", "backbone.layer2.0.bn2.weight"),
    ],
)
def test_early_names_of_mmdet(path, name):
    assert early_mmdet(path.split("/"), "backbone.").name == name


def test_a_backbone_does_not_use_the_classifier():
    assert classification_layout(classifier=False).unused("fc.weight")
    assert classification_layout().unused("fc.weight") is None
    assert classification_layout().unused("layer1.0.bn1.num_batches_tracked")
    assert classification_layout().unused("layer1.0.bn1.running_var") is None
