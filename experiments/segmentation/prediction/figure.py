"""Draws the class maps of several networks side by side (Fig. 7 of the paper)."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from experiments.data.class_colours import BLACK, WHITE
from experiments.data.classes import UNLABELLED
from experiments.segmentation.prediction.drawing import (
    below,
    legend_entries,
    paint_classes,
    shares,
)
from experiments.segmentation.prediction.legend import Entry, draw_legend, wrapped

_PANEL = 320  # width of a panel in pixels
_HIGHEST = 480  # largest height of a panel
_SPACE = 6  # between panels
_FONT = 15
_NAMED = 30  # largest number of classes in the legend
_OPACITY = 0.75


@dataclasses.dataclass(frozen=True)
class Example:
    """A row of the figure.

    Attributes:
        image: RGB image.
        class_maps: class map of the image by each network, by the name of the network.
        label: class of each pixel; None if it is not known.
    """

    image: UInt8[np.ndarray, "H W 3"]
    class_maps: Mapping[str, UInt8[np.ndarray, "H W"]]
    label: UInt8[np.ndarray, "H W"] | None


def draw_examples(
    examples: Sequence[Example], names: Sequence[str]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draws a row for each example: image, class map of each network, and ground truth.

    Args:
        examples: rows with the same networks, at least one.
        names: name of each class.

    Returns:
        The figure, with titles above, and below a legend of the largest classes of all rows. The
        column of the ground truth is left out if no row has one.
    """
    titles = ["image", *examples[0].class_maps]
    if any(example.label is not None for example in examples):
        titles.append("ground truth")
    width = len(titles) * (_PANEL + _SPACE) - _SPACE
    rows = [_titles(titles, width)]
    for example in examples:
        maps = [*example.class_maps.values(), example.label]
        rows.append(_row(example.image, maps[: len(titles) - 1], width))
    return below([*rows, draw_legend(_entries(examples, names), _FONT, width)])


def _entries(examples: Sequence[Example], names: Sequence[str]) -> list[Entry]:
    class_maps = [
        each
        for example in examples
        for each in (*example.class_maps.values(), example.label)
        if each is not None
    ]
    entries = legend_entries(shares(class_maps), names, _NAMED, with_shares=False)
    if any((each == UNLABELLED).any() for each in class_maps):
        entries.append(Entry("unlabelled", "", BLACK))
    return entries


def _titles(titles: Sequence[str], width: int) -> np.ndarray:
    lines = [wrapped(title, _FONT, _PANEL - _SPACE) for title in titles]
    line = round(1.3 * _FONT)
    canvas = Image.new("RGB", (width, line * max(map(len, lines)) + _SPACE), WHITE)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(_FONT)
    for column, own in enumerate(lines):
        middle = column * (_PANEL + _SPACE) + _PANEL // 2
        for number, text in enumerate(own):
            pen.text((middle, number * line), text, fill=BLACK, font=font, anchor="ma")
    return np.asarray(canvas)


def _row(image: np.ndarray, class_maps: Sequence[np.ndarray | None], width: int) -> np.ndarray:
    height = round(_PANEL * image.shape[0] / image.shape[1])
    size = (_PANEL, height)
    if height > _HIGHEST:
        size = (max(1, round(_HIGHEST * image.shape[1] / image.shape[0])), _HIGHEST)
    size = (size[0], max(1, size[1]))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    canvas = np.full((size[1] + _SPACE, width, 3), 255, np.uint8)
    for column, class_map in enumerate([None, *class_maps]):
        if class_map is not None:
            # Classes have no order, so they cannot be averaged.
            resized = Image.fromarray(class_map).resize(size, Image.Resampling.NEAREST)
            panel = paint_classes(small, np.asarray(resized), _OPACITY)
        elif column == 0:
            panel = small
        else:
            continue
        left = column * (_PANEL + _SPACE) + (_PANEL - size[0]) // 2
        canvas[: size[1], left : left + size[0]] = panel
    return canvas
