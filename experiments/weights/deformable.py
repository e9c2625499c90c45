"""Recognises the deformable convolutions of a ResNet by the names and shapes of their arrays."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

type _Stages = tuple[bool, bool, bool, bool]

_NONE: _Stages = (False, False, False, False)
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")
_OFFSETS = re.compile(r"layer([1-4])\.(\d+)\.conv2\.conv_offset\.weight")
_TAPS = 9


class Deformable(NamedTuple):
    """The deformable convolutions of a ResNet.

    Attributes:
        stages: for Res-2, Res-3, Res-4 and Res-5, whether their bottlenecks have modulated
            deformable convolutions.
        groups: number of deformable groups.
        problem: why ResNetConfig cannot describe these convolutions; empty if it can.
    """

    stages: _Stages = _NONE
    groups: int = 1
    problem: str = ""

    def describe(self) -> str:
        """A text such as "deformable convolutions in Res-3, Res-4"; empty if there are none."""
        if self.problem or not any(self.stages):
            return self.problem
        names = [f"Res-{stage}" for stage, has in enumerate(self.stages, 2) if has]
        groups = f" of {self.groups} groups" if self.groups > 1 else ""
        return f"deformable convolutions{groups} in {', '.join(names)}"


def deformable(shapes: Mapping[str, Sequence[int]]) -> Deformable:
    """Recognises the deformable convolutions of a ResNet.

    Args:
        shapes: shapes of the ResNet's arrays, by the names that
            :func:`experiments.weights.architecture.backbone_shapes` gives them.
    """
    found = {
        (int(match[1]), int(match[2])): shape
        for name, shape in shapes.items()
        if (match := _OFFSETS.fullmatch(name)) and len(shape) == 4
    }
    if not found:
        return Deformable()
    if "layer1.0.conv3.weight" not in shapes:
        return Deformable(problem="deformable convolutions in basic blocks")
    blocks = {(int(match[1]), int(match[2])) for name in shapes if (match := _BLOCK.match(name))}
    with_offsets = {stage for stage, _ in found}
    for stage, block in sorted(blocks - found.keys()):
        if stage in with_offsets:
            name = f"layer{stage}.{block}"
            return Deformable(
                problem=f"deformable convolutions in Res-{stage + 1}, but not in {name}"
            )
    counts = {_groups(shape) for shape in found.values()}
    if None in counts:
        outputs = sorted({shape[0] for shape in found.values() if _groups(shape) is None})
        without_masks = all(count % (2 * _TAPS) == 0 for count in outputs)
        kind = "without masks (DCNv1)" if without_masks else "of an unknown kind"
        listed = ", ".join(map(str, outputs))
        return Deformable(
            problem=f"deformable convolutions {kind}, by the {listed} outputs of conv_offset, "
            f"where convolutions with masks (DCNv2) have {3 * _TAPS} for each group"
        )
    if len(counts) > 1:
        return Deformable(problem="deformable convolutions with several numbers of groups")
    (groups,) = counts
    assert groups is not None
    first, second, third, fourth = (stage in with_offsets for stage in (1, 2, 3, 4))
    return Deformable((first, second, third, fourth), groups)


def _groups(shape: Sequence[int]) -> int | None:
    """The number of groups of a modulated convolution; None for other convolutions.

    54 outputs are two groups with masks, or three without. Three groups divide the channels of no
    standard ResNet, so these are two.
    """
    outputs, channels, *_ = shape
    groups, rest = divmod(outputs, 3 * _TAPS)
    return groups if groups and not rest and channels % groups == 0 else None
