"""Constants of a network in files of detectron2: the statistics of its input, and its anchors."""

from collections.abc import Mapping

import numpy as np

from experiments.detection.model.anchors import pyramid_anchors
from experiments.detection.model.config import DetectorConfig
from experiments.weights.files import WeightsError

_ANCHORS = "proposal_generator.anchor_generator.cell_anchors."
# Arrays in half precision differ from the config by up to 5e-4.
_TOLERANCE = 1e-3


def is_constant(name: str) -> bool:
    """Whether an array of a file of detectron2 is a constant, which older versions saved.

    Args:
        name: name of the array.
    """
    return name in {"pixel_mean", "pixel_std"} or (
        name.startswith(_ANCHORS) and name.removeprefix(_ANCHORS).isdecimal()
    )


def check_constants(arrays: Mapping[str, np.ndarray], config: DetectorConfig) -> None:
    """Compares the constants in a file of detectron2 with the config of its detector.

    Args:
        arrays: arrays of the file by name, among them the constants, if the file has them.
        config: config of the detector.

    Raises:
        WeightsError: a constant differs; the message names the array and both values.
    """
    expected = {
        "pixel_mean": np.array(config.backbone.input.mean),
        "pixel_std": np.array(config.backbone.input.std),
    }
    for level, anchors in enumerate(
        pyramid_anchors([(1, 1)] * len(config.anchors.strides), config.anchors, (1, 1))
    ):
        expected[f"{_ANCHORS}{level}"] = anchors
    for name in filter(is_constant, arrays):
        found, wanted = arrays[name], expected.get(name, np.zeros(0))
        if found.size != wanted.size or not _is_close(found.reshape(wanted.shape), wanted):
            raise WeightsError(
                f"{name} must be {_text(wanted)}, as in detectron2's R50-FPN and R101-FPN models "
                f"with weights of MSRA, got {_text(found)}: the network has another input or other "
                "anchors"
            )


def _is_close(found: np.ndarray, wanted: np.ndarray) -> bool:
    if np.iscomplexobj(found):
        return False
    return np.allclose(found.astype(np.float64), wanted, rtol=_TOLERANCE, atol=_TOLERANCE)


def _text(array: np.ndarray) -> str:
    """At most twelve values, which is one level of anchors."""
    values = ", ".join(f"{value:.6g}" for value in array.ravel()[:12].tolist())
    return f"[{values}{', ...' if array.size > 12 else ''}]"
