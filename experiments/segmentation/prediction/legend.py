"""Draws legends: colours with names."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from experiments.data.class_colours import BLACK, WHITE, Colour
from experiments.engine.text import printable

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_SMALLEST = 11  # size of a font in pixels at which it is legible
_CUT = "..."
# In units of the size of the font.
_LINE, _GAP = 1.5, 0.5
_LONGEST = 18  # length of a name and its note


class Entry(NamedTuple):
    """An entry of a legend.

    Attributes:
        name: name, which is cut off if it is too long.
        note: text after the name, which is never cut off; may be empty.
        colour: colour of the square before the name; None for no square.
    """

    name: str
    note: str
    colour: Colour | None


def font_size(height: int, width: int) -> int:
    """The size of a font in pixels with which a picture is labelled."""
    return max(_SMALLEST, round((height + width) / 75))


def draw_legend(
    entries: Sequence[Entry], size: int, width: int | None = None
) -> UInt8[np.ndarray, "height drawn_width 3"]:
    """Draws entries in columns, from top to bottom.

    Args:
        entries: entries of the legend.
        size: size of the font in pixels.
        width: width of the legend in pixels. It becomes wider if a single column does not fit, with
            names of up to about ten letters. The default is one column of the necessary width.

    Returns:
        Black text on white.
    """
    if not entries:
        return np.full((1, width or 1, 3), 255, np.uint8)
    font = ImageFont.load_default(size)
    gap, line = round(_GAP * size), round(_LINE * size)
    square = size + gap  # with the gap after it
    texts = [_fitted(entry, font, _LONGEST * size) for entry in entries]
    column = gap + square + max(_length(text, font) for text in texts) + gap
    width = column if width is None else max(width, column)
    columns = min(len(entries), width // column)
    lines = -(-len(entries) // columns)
    canvas = Image.new("RGB", (width, lines * line + 2 * gap), WHITE)
    pen = ImageDraw.Draw(canvas)
    for number, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        left = number // lines * column + gap
        middle = gap + number % lines * line + line // 2
        if entry.colour is not None:
            corners = (left, middle - size // 2, left + size - 1, middle - size // 2 + size - 1)
            pen.rectangle(corners, fill=entry.colour)
        pen.text((left + square, middle), text, fill=BLACK, font=font, anchor="lm")
    return np.asarray(canvas)


def wrapped(text: str, size: int, width: int) -> list[str]:
    """Breaks a text into lines of at most ``width`` pixels, after spaces or hyphens if possible.

    Args:
        text: text of one line.
        size: size of the font in pixels.
        width: largest length of a line in pixels.
    """
    font = ImageFont.load_default(size)
    lines = [""]
    for word in re.split("(?<=[ -])", printable(text)):
        if lines[-1] and _length((lines[-1] + word).rstrip(), font) > width:
            lines.append("")
        for letter in word:
            if lines[-1] and _length((lines[-1] + letter).rstrip(), font) > width:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines]


def _fitted(entry: Entry, font: Font, longest: int) -> str:
    """The text of an entry, whose name is cut off so that it is at most ``longest`` pixels long."""
    name = printable(entry.name)
    note = f"  {entry.note}" if entry.note else ""
    text = name + note
    while name and _length(text, font) > longest:
        name = name[:-1]
        text = name.rstrip() + _CUT + note
    return text


def _length(text: str, font: Font) -> int:
    return math.ceil(font.getlength(text))
