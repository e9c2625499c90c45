"""Draws detections on their image (Fig. 6 of the paper)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

from experiments.data.class_colours import Colour, class_colour, contrasting
from experiments.detection.data.object_masks import decode_mask
from experiments.detection.evaluation.results import Result

Rectangle = tuple[int, int, int, int]  # left, top, right and bottom, the last two exclusive

_OPACITY = 0.45  # of masks


def draw_detections(
    image: UInt8[np.ndarray, "H W 3"], results: Sequence[Result], names: Mapping[int, str]
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws boxes, names, scores and, if there are any, masks.

    To be visible on bright and on dark images, lines have a contrasting edge, and names are written
    in black or white, whichever is more legible, on a background of the category's colour.

    Args:
        image: RGB image, which is not changed.
        results: detections in the image; higher scores are drawn over lower scores.
        names: name of each category id.

    Returns:
        The image with the drawings.
    """
    height, width = image.shape[:2]
    ordered = sorted(results, key=lambda result: result["score"])
    line = max(1, round((height + width) / 450))
    pixels = image.astype(np.float32)
    for result in ordered:
        if "segmentation" in result:
            mask = decode_mask(result["segmentation"]["counts"], height, width).astype(bool)
            _paint_mask(pixels, mask, class_colour(result["category_id"]), line)
    canvas = Image.fromarray(np.round(pixels).astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    for result in ordered:
        _draw_box(pen, result["bbox"], class_colour(result["category_id"]), line)
    font = ImageFont.load_default(max(10, round((height + width) / 90)))
    labels: list[Rectangle] = []
    for result in reversed(ordered):
        text = f"{names[result['category_id']]} {result['score']:.2f}"
        colour = class_colour(result["category_id"])
        labels.append(_draw_label(pen, result["bbox"], text, colour, font, canvas.size, labels))
    return np.asarray(canvas)


def _paint_mask(
    pixels: np.ndarray, mask: Bool[np.ndarray, "H W"], colour: Colour, line: int
) -> None:
    """Tints ``pixels`` under a mask in place, with an opaque outline of ``line`` pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return
    # Only the window around the mask, with a margin of one pixel for the outline: going through a
    # large image for each small mask is slow.
    window = tuple(
        slice(max(first - 1, 0), last + 2)
        for first, last in ((rows[0], rows[-1]), (columns[0], columns[-1]))
    )
    pixels, mask = pixels[window], mask[window]
    outline = mask & ~_eroded(mask, line)
    inner = mask & ~outline
    pixels[inner] += _OPACITY * (np.array(colour, np.float32) - pixels[inner])
    pixels[outline] = colour


def _eroded(mask: Bool[np.ndarray, "H W"], pixels: int) -> Bool[np.ndarray, "H W"]:
    """The mask without its outermost pixels. The border of the image is not eroded."""
    for _ in range(pixels):
        padded = np.pad(mask, 1, mode="edge")
        above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
        left, right = padded[1:-1, :-2], padded[1:-1, 2:]
        mask = mask & above & below & left & right
    return mask


def _draw_box(pen: ImageDraw.ImageDraw, bbox: Sequence[float], colour: Colour, line: int) -> None:
    left, top, width, height = bbox
    # Halves are always rounded up, so that the size of a box does not depend on its position.
    edges = [math.floor(edge + 0.5) for edge in (left, top, left + width, top + height)]
    corners = [edges[0], edges[1], edges[2] - 1, edges[3] - 1]
    corners[2:] = max(corners[0], corners[2]), max(corners[1], corners[3])
    around = [corners[0] - 1, corners[1] - 1, corners[2] + 1, corners[3] + 1]
    pen.rectangle(around, outline=contrasting(colour), width=line + 2)
    pen.rectangle(corners, outline=colour, width=line)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    bbox: Sequence[float],
    text: str,
    colour: Colour,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    image_size: tuple[int, int],
    occupied: Sequence[Rectangle],
) -> Rectangle:
    """Draws a label above a box, or further down if labels are there; returns its rectangle.

    Labels may overlap at the bottom of the image.
    """
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = max(1, round((bottom - top) / 5))
    width, height = round(right - left) + 2 * margin, round(bottom - top) + 2 * margin
    x = max(0, min(round(bbox[0]), image_size[0] - width))
    y = max(0, min(round(bbox[1]) - height, image_size[1] - height))
    for _ in occupied:  # each step down passes at least one label
        here = (x, y, x + width, y + height)
        overlapped = [label for label in occupied if _overlap(here, label)]
        if overlapped:
            y = max(label[3] for label in overlapped)
    y = max(0, min(y, image_size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + margin - left, y + margin - top), text, fill=contrasting(colour), font=font)
    return x, y, x + width, y + height


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    across = min(a[2], b[2]) > max(a[0], b[0])
    return across and min(a[3], b[3]) > max(a[1], b[1])
