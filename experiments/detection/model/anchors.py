"""Anchors: the boxes that the region proposal network scores and refines."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from experiments.engine.config import check


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
    """The anchors of a feature pyramid (reference 23, section 4.1).

    Attributes:
        scale: side of a square anchor, in strides of its level.
        ratios: ratios of height to width of the anchors at a position; all these anchors have the
            same area.
        strides: strides of the pyramid's levels, in pixels.
        rounded: whether the corners of anchors around the origin are rounded to whole pixels, half
            to even, as in torchvision.
        measured_strides: whether the distances between anchors are those between the pixels of a
            map, the size of the padded input divided by the size of the map and rounded down, as
            in torchvision. They differ from ``strides`` if the size of the input is no multiple of
            the stride: with an input of 800 rows, P6 has 13 rows at a distance of 61 pixels.
    """

    scale: float = 8.0
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    rounded: bool = False
    measured_strides: bool = False

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for a field out of range."""
        check(self.scale > 0, "scale", "above 0", self.scale)
        for name in ("ratios", "strides"):
            values = getattr(self, name)
            positive = len(values) > 0 and all(value > 0 for value in values)
            check(positive, name, "one or more numbers above 0", values)


def pyramid_anchors(
    shapes: Sequence[tuple[int, int]],
    config: AnchorConfig,
    input_size: tuple[int, int] | None = None,
) -> tuple[Float32[np.ndarray, "boxes 4"], ...]:
    """The anchors of each level, as in detectron2 and mmdet 2, or as in torchvision.

    Anchors are constants. They are centred on the top left corners of the map's pixels.

    Args:
        shapes: height and width of each level's map.
        config: scale, ratios and strides.
        input_size: height and width of the padded input, which measured strides need.

    Returns:
        For each level an array ``[H * W * A, 4]``, in the order of rows, columns and ratios. The
        anchors of the map's pixel in row i and column j have the centre
        ``(j * stride, i * stride)``. Measured strides may differ between the axes.

    Raises:
        ValueError: the numbers of shapes and of strides differ, or strides are measured and there
            is no ``input_size``.
    """
    if len(shapes) != len(config.strides):
        raise ValueError(
            f"shapes must have one entry for each of the strides {config.strides}, "
            f"got {list(shapes)}"
        )
    if config.measured_strides and input_size is None:
        raise ValueError("input_size must be given for measured strides, got None")
    return tuple(
        _level_anchors(shape, stride, config, input_size)
        for shape, stride in zip(shapes, config.strides, strict=True)
    )


def _level_anchors(
    shape: tuple[int, int], stride: int, config: AnchorConfig, input_size: tuple[int, int] | None
) -> Float32[np.ndarray, "boxes 4"]:
    side = config.scale * stride
    half = [(side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2) for ratio in config.ratios]
    around = np.array([(-x, -y, x, y) for x, y in half])  # [A, 4]
    if config.rounded:
        around = around.round()
    distances = (stride, stride)
    if config.measured_strides and input_size is not None:
        distances = (input_size[0] // shape[0], input_size[1] // shape[1])
    y, x = np.mgrid[: shape[0], : shape[1]] * np.reshape(distances, (2, 1, 1))
    centres = np.stack([x, y, x, y], axis=-1)  # [H, W, 4]
    anchors = centres[:, :, None] + around  # [H, W, A, 4]
    return anchors.reshape(-1, 4).astype(np.float32)
