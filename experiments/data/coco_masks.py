"""Segmentations in the JSON format of COCO, decoded exactly as COCO's evaluation decodes them."""

from typing import Any

from pycocotools import mask as rle

from experiments.engine.json_files import is_int64
from experiments.engine.text import shown

# Limits of coordinates and of outlines, in pixels. pycocotools walks along the edges of a polygon
# point by point, so that a polygon that ends far outside, or oscillates, would fill the memory.
FARTHEST = 100_000
_LONGEST_OUTLINE = 40 * FARTHEST

# Limit of a run length, in bits: more than any image needs.
_MAX_RUN_LENGTH_BITS = 60


def compressed_counts(segmentation: Any, height: int, width: int) -> str:
    """Encodes a segmentation as the run lengths that ``pycocotools.mask`` decodes.

    The mask equals that of ``pycocotools.coco.COCO.annToMask``, to the pixel.

    Args:
        segmentation: a list of polygons ``[x1, y1, x2, y2, ...]`` in pixels, whose union is the
            mask; or ``{"size": [height, width], "counts": ...}`` with run lengths as a list of
            integers or as a compressed string.
        height: height of the image, in pixels.
        width: width of the image, in pixels.

    Returns:
        The ``counts`` of a compressed run-length encoding of the whole image; ``""`` for an empty
        list, which means that there is no segmentation.

    Raises:
        ValueError: a polygon has an odd number of coordinates, fewer than six, a coordinate that is
            not a number or is further than :data:`FARTHEST` from the corner of the image, or an
            outline that is far too long; run lengths belong to an image of another size; or the
            segmentation has another format.
    """
    if isinstance(segmentation, list):
        if not segmentation:
            return ""
        for polygon in segmentation:
            _check_polygon(polygon)
        return _text(rle.merge(rle.frPyObjects(segmentation, height, width)))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError(
            f"segmentation must be a list of polygons or have size and counts, got "
            f"{shown(segmentation)}"
        )
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width] or any(type(side) is not int for side in size):
        raise ValueError(f"size of the segmentation must be {[height, width]}, got {shown(size)}")
    lengths = decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(is_int64(n) and n >= 0 for n in lengths):
        raise ValueError(f"counts of the segmentation must be run lengths, got {shown(counts)}")
    if sum(lengths) != height * width:
        raise ValueError(
            f"counts of the segmentation must cover {height} x {width} = {height * width} pixels, "
            f"they cover {shown(sum(lengths))}"
        )
    if isinstance(counts, str):
        return counts
    return _text(rle.frPyObjects(segmentation, height, width))


def decompressed(counts: str) -> list[int]:
    """Decodes the compressed form of run lengths, which ``pycocotools`` would not validate.

    Each number is written in groups of five bits, the lowest first, as characters from ``"0"`` on;
    the sixth bit says that another group follows, and the fifth bit of the last group is the sign.
    From the fourth number on, each is the difference from the last but one.

    Args:
        counts: run lengths in the compressed form.

    Raises:
        ValueError: a character is not one of the 64, a number is too long, or the last number is
            incomplete.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"counts of the segmentation must not have {character!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            if shift > _MAX_RUN_LENGTH_BITS:
                raise ValueError(f"counts of the segmentation must end, got {shown(counts)}")
            continue
        if bits & 0x10:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"counts of the segmentation must end, got {shown(counts)}")
    return lengths


def _check_polygon(polygon: Any) -> None:
    if not isinstance(polygon, list) or any(type(n) not in (int, float) for n in polygon):
        raise ValueError(
            "segmentation must be a list of polygons, and a polygon a list of numbers, got the "
            f"polygon {shown(polygon)}"
        )
    if len(polygon) % 2 or len(polygon) < 6:
        raise ValueError(
            f"a polygon must have an even number of coordinates, at least 6, got {len(polygon)}"
        )
    if not all(abs(n) <= FARTHEST for n in polygon):  # false for NaN
        raise ValueError(
            f"a polygon's coordinates must be within {FARTHEST} pixels, got {shown(polygon)}"
        )
    # Very few polygons are so complex or so large that their edges must be measured.
    if len(polygon) * max(map(abs, polygon)) > _LONGEST_OUTLINE:
        outline = _outline(polygon)
        if outline > _LONGEST_OUTLINE:
            raise ValueError(
                f"a polygon's outline must be at most {_LONGEST_OUTLINE} pixels long, got "
                f"{outline:.0f}"
            )


def _outline(polygon: list[float]) -> float:
    """Returns the number of pixels along the edges of a polygon."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    return sum(
        max(abs(x2 - x1), abs(y2 - y1))
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True)
    )


def _text(encoded: Any) -> str:
    counts: bytes = encoded["counts"]
    return counts.decode("ascii")
