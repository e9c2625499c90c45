"""Recognises the format of a file of weights by the names of its arrays."""

import dataclasses
import re
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that a command of a task converts.

    Attributes:
        library: name of the library, the value of the option ``--from``.
        task: name of the task's package in ``experiments``.
    """

    library: str
    task: str

    @property
    def command(self) -> str:
        """The option and the command that convert this format, for messages."""
        return f"`--from {self.library}` of `python -m experiments.{self.task} convert`"

    @property
    def advice(self) -> str:
        """The networks that the command converts, for messages about a file with such names."""
        return f"has names of {self.library}: {self.command} reads {_NETWORKS[self.task]}"


# The networks that the tasks convert. Other networks of a library have some of their names.
_NETWORKS = {
    "detection": "Faster R-CNN and Mask R-CNN with an FPN",
    "segmentation": "UperNet and PSPNet with a ResNet",
    "classification": "ResNets",
}

# Parts of names, from the start of a module's name, by which a format is recognised. The first
# format with a match counts.
_MARKS = {
    Format("detectron2", "detection"): ("backbone.bottom_up.", "proposal_generator."),
    Format("torchvision", "detection"): ("backbone.body.", "roi_heads.box_predictor."),
    Format("mmdet", "detection"): ("rpn_head.", "roi_head.", "bbox_head."),
    Format("mmseg", "segmentation"): ("decode_head.",),
    Format("csail", "segmentation"): (
        "ppm_conv.",
        "ppm_last_conv.",
        "ppm.",
        "conv_last.",
        "cbr_deepsup.",
    ),
    # timm has the same names.
    Format("torchvision", "classification"): ("layer1.0.conv1.",),
}
# torchvision's networks with a ResNet below another module are no classification networks.
_BELOW = re.compile(r"(backbone|encoder)\.(layer1|body)\.")


def recognise(names: Iterable[str]) -> Format | None:
    """The format of a file of weights.

    Args:
        names: names of the arrays in the file, or in all files of a network. A prefix such as
            ``module.`` does not matter.

    Returns:
        The format, or ``None`` for names that no format here has. ``"torchvision"`` also means
        timm, whose ResNets have the same names.
    """
    dotted = [f".{name}" for name in names]
    for each, marks in _MARKS.items():
        if each.task == "classification" and any(_BELOW.search(name) for name in dotted):
            continue
        if any(f".{mark}" in name for mark in marks for name in dotted):
            return each
    return None
