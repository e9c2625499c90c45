"""Draws the classes of pixels over their image, with a legend."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from experiments.data.class_colours import BLACK, class_colour
from experiments.data.classes import UNLABELLED
from experiments.segmentation.prediction.legend import Entry, draw_legend, font_size

_OPACITY = 0.5
_SHOWN = 12  # largest number of classes in a legend


class Share(NamedTuple):
    """A class in a class map.

    Attributes:
        number: number of the class.
        share: share of the labelled pixels, in (0, 1].
    """

    number: int
    share: float


def shares(class_maps: Sequence[UInt8[np.ndarray, "_h _w"]]) -> list[Share]:
    """The classes of class maps, the largest first; of equal classes, the lower number first.

    Args:
        class_maps: maps ``[H, W]`` of any sizes, each with the same weight; unlabelled pixels are
            not counted.
    """
    totals = np.zeros(256)
    for class_map in class_maps:
        counts = np.bincount(class_map.ravel(), minlength=256)
        counts[UNLABELLED] = 0
        totals += counts / max(int(counts.sum()), 1)
    total = max(float(totals.sum()), 1.0)
    found = np.argsort(-totals, kind="stable")
    return [Share(int(number), totals[number] / total) for number in found if totals[number]]


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colour of each class; unlabelled pixels are black."""
    colours = np.array([class_colour(number) for number in range(256)], np.uint8)
    colours[UNLABELLED] = BLACK
    return colours


def paint_classes(
    image: UInt8[np.ndarray, "H W 3"],
    class_map: UInt8[np.ndarray, "H W"],
    opacity: float = _OPACITY,
) -> UInt8[np.ndarray, "H W 3"]:
    """Tints each pixel in the colour of its class, and draws the edges of classes opaque.

    Args:
        image: RGB image, which is not changed.
        class_map: class of each pixel; unlabelled pixels, as in label maps, are tinted black.
        opacity: opacity of the colours between the edges, in [0, 1].

    Returns:
        The tinted image.
    """
    colours = palette()[class_map]
    tinted = Image.blend(Image.fromarray(image), Image.fromarray(colours), opacity)
    line = max(1, round(sum(class_map.shape) / 900))
    edges = _edges(class_map, line)
    painted = np.array(tinted)
    painted[edges] = colours[edges]
    return painted


def draw_classes(
    image: UInt8[np.ndarray, "H W 3"],
    class_map: UInt8[np.ndarray, "H W"],
    names: Sequence[str],
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws classes over an image, and a legend of the largest classes below or beside it.

    Args:
        image: RGB image, which is not changed.
        class_map: class of each pixel.
        names: name of each class.

    Returns:
        The drawing. The tinted image is its upper left part; the legend is on the right of an image
        that is higher than wide, and otherwise below.
    """
    height, width = class_map.shape
    painted = paint_classes(image, class_map)
    entries = legend_entries(shares([class_map]), names)
    size = font_size(height, width)
    if height > width:
        legend = draw_legend(entries, size)
        return beside([painted, legend])
    return below([painted, draw_legend(entries, size, width)])


def percent(share: float) -> str:
    """Formats a share in percent; small shares are not shown as zero."""
    return f"{100 * share:.1f} %" if share >= 0.001 else "<0.1 %"


def legend_entries(
    found: Sequence[Share], names: Sequence[str], most: int = _SHOWN, with_shares: bool = True
) -> list[Entry]:
    """The entries of a legend: the largest classes, and the number of further classes.

    Args:
        found: classes from :func:`shares`.
        names: name of each class.
        most: largest number of classes that are named.
        with_shares: whether shares are written behind the names, in percent.
    """
    named, rest = found[:most], found[most:]
    entries = []
    for number, share in named:
        note = percent(share) if with_shares else ""
        entries.append(Entry(names[number], note, class_colour(number)))
    if rest:
        noun = "class" if len(rest) == 1 else "classes"
        note = percent(sum(each.share for each in rest)) if with_shares else ""
        entries.append(Entry(f"{len(rest)} more {noun}", note, None))
    return entries


def below(parts: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> UInt8[np.ndarray, "height width 3"]:
    """Puts pictures below each other, from the left, on white."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate([_padded(part, part.shape[0], width) for part in parts], axis=0)


def beside(parts: Sequence[UInt8[np.ndarray, "_h _w 3"]]) -> UInt8[np.ndarray, "height width 3"]:
    """Puts pictures beside each other, from the top, on white."""
    height = max(part.shape[0] for part in parts)
    return np.concatenate([_padded(part, height, part.shape[1]) for part in parts], axis=1)


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    missing = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
    return np.pad(picture, missing, constant_values=255)


def _edges(class_map: UInt8[np.ndarray, "H W"], pixels: int) -> Bool[np.ndarray, "H W"]:
    """The pixels at most ``pixels`` away from another class, on both sides of each edge."""
    edges = np.zeros(class_map.shape, bool)
    for axis in (0, 1):
        first, second = _neighbours(class_map, axis)
        differ = first != second
        for side in _neighbours(edges, axis):
            side |= differ
    for _ in range(pixels - 1):
        before = edges.copy()
        for axis in (0, 1):
            for target, source in zip(
                _neighbours(edges, axis), reversed(_neighbours(before, axis)), strict=True
            ):
                target |= source
    return edges


def _neighbours(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of all pixels but the last, and of all but the first, along an axis."""
    if axis == 0:
        return array[:-1], array[1:]
    return array[:, :-1], array[:, 1:]
