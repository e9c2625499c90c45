"""Tests how the deformable convolutions of a ResNet are recognised and described."""

import pytest

from experiments.weights.architecture import architecture, backbone_shapes
from experiments.weights.deformable import Deformable, deformable

BLOCKS = (3, 4, 6, 3)
ALL = {(stage, block) for stage, blocks in enumerate(BLOCKS, 1) for block in range(blocks)}


def resnet(outputs, bottlenecks=True, width=64):
    """Shapes of some arrays of a ResNet-50.

    Args:
        outputs: number of outputs of each predictor of offsets, by stage and block.
        bottlenecks: whether the blocks have a third convolution.
        width: channels of the 3x3 convolutions of the first stage.
    """
    shapes = {"conv1.weight": (64, 3, 7, 7)}
    for stage, block in sorted(ALL):
        name, channels = f"layer{stage}.{block}", width * 2 ** (stage - 1)
        shapes[f"{name}.conv1.weight"] = (channels, channels, 1, 1)
        shapes[f"{name}.conv2.weight"] = (channels, channels, 3, 3)
        if bottlenecks:
            shapes[f"{name}.conv3.weight"] = (4 * channels, channels, 1, 1)
        if count := outputs.get((stage, block)):
            shapes[f"{name}.conv2.conv_offset.weight"] = (count, channels, 3, 3)
            shapes[f"{name}.conv2.conv_offset.bias"] = (count,)
    return shapes


def in_stages(*stages, count=27):
    return {each: count for each in ALL if each[0] in stages}


def test_a_plain_network_has_no_deformable_convolutions():
    assert deformable(resnet({})) == Deformable()
    assert Deformable().describe() == ""


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((2, 3, 4), (False, True, True, True)),
        ((1, 2, 3), (True, True, True, False)),
        ((4,), (False, False, False, True)),
    ],
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_stages_and_groups(stages, expected, groups):
    shapes = resnet(in_stages(*stages, count=27 * groups))
    assert deformable(shapes) == Deformable(expected, groups)


@pytest.mark.parametrize(
    ("shapes", "problem"),
    [
        (resnet(in_stages(3, count=18)), "without masks (DCNv1), by the 18 outputs"),
        (resnet(in_stages(3, count=72)), "without masks (DCNv1), by the 72 outputs"),
        (resnet(in_stages(3, count=9)), "of an unknown kind, by the 9 outputs"),
        # Three groups do not divide 64 channels.
        (resnet(in_stages(1, count=81)), "of an unknown kind, by the 81 outputs"),
        (resnet({(3, 1): 27}), "in Res-4, but not in layer3.0"),
        (resnet(in_stages(2) | in_stages(3, count=54)), "several numbers of groups"),
        (resnet(in_stages(3), bottlenecks=False), "in basic blocks"),
    ],
)
def test_other_deformable_convolutions_have_a_problem(shapes, problem):
    found = deformable(shapes)
    assert problem in found.problem
    assert found.describe() == found.problem


@pytest.mark.parametrize(
    ("prefix", "offset"),
    [("backbone.", ".conv2_offset."), ("", ".conv2.conv_offset.")],
)
def test_names_of_a_backbone(prefix, offset):
    shapes = {
        prefix + name.replace(".conv2.conv_offset.", offset): shape
        for name, shape in resnet(in_stages(2)).items()
    }
    assert deformable(backbone_shapes(shapes)).stages == (False, True, False, False)


def test_a_description_names_the_stages():
    text = "deformable convolutions of 2 groups in Res-3, Res-4"
    assert text in architecture(resnet(in_stages(2, 3, count=54)))
    assert "without masks (DCNv1)" in architecture(resnet(in_stages(2, count=18)))
