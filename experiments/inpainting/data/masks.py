"""Random holes: free-form holes, rectangles, and holes of a given size.

Free-form holes look like brush strokes with which a person paints over an object to remove it. They
follow Yu et al., "Free-Form Image Inpainting with Gated Convolution" (reference 45 of the CARAFE++
paper), section 3.2. A mask has several strokes. A stroke is a polyline with random vertices, whose
direction alternates between two sides, drawn with a random brush width and round joints. The mask
is flipped at random.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

Shapes = Literal["free_form", "rectangles", "both"]

_RECTANGLE_SIDE = (0.1, 0.8)
_MAX_SHAPES = 1000


@dataclasses.dataclass(frozen=True)
class Brush:
    """Ranges from which strokes are drawn, both ends included.

    Lengths are fractions of the image's shorter side.

    Attributes:
        strokes: range of the number of strokes in a mask.
        vertices: range of the number of segments in a stroke.
        length: range of the length of a segment.
        width: range of the width of the brush.
        mean_angle: mean direction of a stroke's segments, in radians.
        angle_range: largest deviation from ``mean_angle``, in radians.
    """

    strokes: tuple[int, int] = (1, 4)
    vertices: tuple[int, int] = (2, 6)
    length: tuple[float, float] = (0.1, 0.4)
    width: tuple[float, float] = (0.06, 0.18)
    mean_angle: float = 2 * math.pi / 5
    angle_range: float = 2 * math.pi / 15

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for a range that is empty or exceeds its limits."""
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
    """Draws a mask of brush strokes; equal generator states result in equal masks.

    Args:
        rng: random generator.
        height: height of the mask in pixels, at least 1.
        width: width of the mask in pixels, at least 1.
        brush: ranges of the strokes.

    Returns:
        The mask ``[H, W]``, true in the hole. The hole is never empty, and never covers the whole
        mask, unless the mask is 1x1.
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
    """Draws one rectangle at a random position; equal generator states result in equal masks.

    Iizuka et al., "Globally and Locally Consistent Image Completion", and Yu et al., "Generative
    Image Inpainting with Contextual Attention", also train with one rectangle in each image. Here
    the sides of the rectangle vary more, from a tenth to eight tenths of the image's sides.

    Args:
        rng: random generator.
        height: height of the mask in pixels, at least 1.
        width: width of the mask in pixels, at least 1.

    Returns:
        The mask ``[H, W]``, true in the hole. The hole is never empty, and never covers the whole
        mask, unless the mask is 1x1.
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
    """Draws a hole whose size is in a range; equal generator states result in equal holes.

    Strokes or rectangles are added until the size is in the range. A stroke or rectangle with which
    the hole would become too large is left out.

    Args:
        rng: random generator.
        height: height of the mask in pixels, at least 1.
        width: width of the mask in pixels, at least 1.
        shapes: shapes of the hole; ``"both"`` draws one of the two with equal probability.
        share: range of the hole's size, as a fraction of the image's pixels within [0, 1]. The
            lower limit is included, the upper limit is not.

    Returns:
        The mask ``[H, W]``, true in the hole. The hole is never empty, and never covers the whole
        mask.

    Raises:
        ValueError: ``share`` is not a range within [0, 1]; or the range is so narrow, or the image
            so small, that no hole fits: one of nine pixels is more than a tenth.
    """
    low, high = share
    if not 0 <= low < high <= 1:
        raise ValueError(f"share must be a range within [0, 1], got {share}")
    if shapes == "both":
        shapes = "free_form" if rng.random() < 0.5 else "rectangles"
    mask = np.zeros((height, width), bool)
    for _ in range(_MAX_SHAPES):
        if shapes == "free_form":
            larger = mask | free_form_mask(rng, height, width, _ONE_STROKE)
        else:
            larger = mask | rectangle_mask(rng, height, width)
        covered = np.count_nonzero(larger) / larger.size  # ten times faster than mean()
        if covered < high:
            mask = larger
            if covered >= low:
                return mask
    raise ValueError(
        f"share must be possible for a hole in {height}x{width} pixels, got {share}, which "
        f"{_MAX_SHAPES:,} {'strokes' if shapes == 'free_form' else 'rectangles'} did not reach"
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
