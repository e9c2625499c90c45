"""Random holes: free-form, rectangles, and either of a given size.

Free-form holes are brush strokes as a person would paint them to remove something, after Yu et al.,
"Free-Form Image Inpainting with Gated Convolution" (reference 45 of the CARAFE++ paper), section
3.2: a mask is several strokes; a stroke is a polyline of random vertices whose angle turns back and
forth, drawn with a random brush width and round joints; the whole is flipped at random.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

Shapes = Literal["free_form", "rectangles", "both"]

_RECTANGLE_SIDE = (0.1, 0.8)
_MOST_SHAPES = 1000


@dataclasses.dataclass(frozen=True)
class Brush:
    """Ranges of a stroke, both ends included; lengths in shares of the image's shorter side.

    Attributes:
        strokes: strokes of a mask.
        vertices: segments of a stroke.
        length: of a segment.
        width: of the brush.
        mean_angle: about which the direction of a stroke's segments varies, in radians.
        angle_range: by how much it varies, to either side.
    """

    strokes: tuple[int, int] = (1, 4)
    vertices: tuple[int, int] = (2, 6)
    length: tuple[float, float] = (0.1, 0.4)
    width: tuple[float, float] = (0.06, 0.18)
    mean_angle: float = 2 * math.pi / 5
    angle_range: float = 2 * math.pi / 15

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for ranges that give no hole, or nothing else."""
        for name, lowest, highest in (
            ("strokes", 1, 64),
            ("vertices", 1, 64),
            ("length", 0, 1),
            ("width", 0, 0.5),
        ):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(
                    f"{name} must be a range within [{lowest}, {highest}], got {(low, high)}"
                )


_ONE_STROKE = Brush(strokes=(1, 1))


def free_form_mask(
    rng: np.random.Generator, height: int, width: int, brush: Brush | None = None
) -> Bool[np.ndarray, "height width"]:
    """Draws a mask; the same generator state gives the same mask.

    Args:
        rng: source of randomness.
        height: of the mask in pixels, at least 1.
        width: of the mask in pixels, at least 1.
        brush: ranges of the strokes.

    Returns:
        ``[H, W]``, true in the hole, which is never empty; nor is, above 1x1, what is left.
    """
    brush = brush or Brush()
    while True:
        image = Image.new("L", (width, height))
        draw = ImageDraw.Draw(image)
        for _ in range(rng.integers(*brush.strokes, endpoint=True)):
            _draw_stroke(draw, rng, height, width, brush)
        mask = np.asarray(image, dtype=bool)
        if rng.random() < 0.5:
            mask = mask[::-1]
        if rng.random() < 0.5:
            mask = mask[:, ::-1]
        if mask.any() and (not mask.all() or mask.size == 1):
            return np.ascontiguousarray(mask)


def rectangle_mask(
    rng: np.random.Generator, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Draws one rectangle at a random place; the same generator state gives the same mask.

    Iizuka et al., "Globally and Locally Consistent Image Completion", and Yu et al., "Generative
    Image Inpainting with Contextual Attention", train with one rectangle an image too. Here its
    sides vary more, from a tenth to eight tenths of the image's.

    Args:
        rng: source of randomness.
        height: of the mask in pixels, at least 1.
        width: of the mask in pixels, at least 1.

    Returns:
        ``[H, W]``, true in the hole, which is never empty; nor is, above 1x1, what is left.
    """
    h, w = (max(1, round(rng.uniform(*_RECTANGLE_SIDE) * side)) for side in (height, width))
    top, left = rng.integers(height - h, endpoint=True), rng.integers(width - w, endpoint=True)
    mask = np.zeros((height, width), bool)
    mask[top : top + h, left : left + w] = True
    return mask


def hole_in_range(
    rng: np.random.Generator,
    height: int,
    width: int,
    shapes: Shapes,
    share: tuple[float, float],
) -> Bool[np.ndarray, "height width"]:
    """Draws a hole that takes a given share of the image; the same state gives the same hole.

    Strokes or rectangles are added until the share is reached; one that would exceed it is left
    out.

    Args:
        rng: source of randomness.
        height: of the mask in pixels, at least 1.
        width: of the mask in pixels, at least 1.
        shapes: of the hole; ``"both"`` is the one or the other, as likely.
        share: of the image's pixels, the lowest and what the hole stays below, within [0, 1].

    Returns:
        ``[H, W]``, true in the hole, which is never empty, nor is what is left.

    Raises:
        ValueError: ``share`` is no such range, or so narrow, or the image so small, that no hole
            takes it: one of nine pixels is more than a tenth.
    """
    low, high = share
    if not 0 <= low < high <= 1:
        raise ValueError(f"share must be a range within [0, 1], got {share}")
    if shapes == "both":
        shapes = "free_form" if rng.random() < 0.5 else "rectangles"
    mask = np.zeros((height, width), bool)
    for _ in range(_MOST_SHAPES):
        if shapes == "free_form":
            larger = mask | free_form_mask(rng, height, width, _ONE_STROKE)
        else:
            larger = mask | rectangle_mask(rng, height, width)
        taken = np.count_nonzero(larger) / larger.size  # a tenth of the time of mean()
        if taken < high:
            mask = larger
            if taken >= low:
                return mask
    raise ValueError(
        f"share must be one that holes in {height}x{width} pixels can take, got {share}: of "
        f"{_MOST_SHAPES:,} {'strokes' if shapes == 'free_form' else 'rectangles'} none led there"
    )


def _draw_stroke(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, height: int, width: int, brush: Brush
) -> None:
    side = min(height, width)
    thickness = max(1, round(rng.uniform(*brush.width) * side))
    x, y = rng.uniform(0, width), rng.uniform(0, height)
    for segment in range(rng.integers(*brush.vertices, endpoint=True)):
        angle = brush.mean_angle + rng.uniform(-brush.angle_range, brush.angle_range)
        if segment % 2:
            angle = 2 * math.pi - angle
        length = rng.uniform(*brush.length) * side
        end_x = min(max(x + length * math.sin(angle), 0), width - 1)
        end_y = min(max(y + length * math.cos(angle), 0), height - 1)
        draw.line((x, y, end_x, end_y), fill=1, width=thickness)
        for joint_x, joint_y in ((x, y), (end_x, end_y)):
            radius = thickness / 2
            draw.ellipse(
                (joint_x - radius, joint_y - radius, joint_x + radius, joint_y + radius), fill=1
            )
        x, y = end_x, end_y
