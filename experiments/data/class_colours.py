"""Colours in which pictures show classes."""

import colorsys

Colour = tuple[int, int, int]

BLACK, WHITE = (0, 0, 0), (255, 255, 255)

_GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly for any count
_LIGHTNESSES = (0.55, 0.72, 0.42)


def class_colour(number: int) -> Colour:
    """Returns the colour of a class, the same in all images; consecutive numbers differ clearly."""
    hue = number * _GOLDEN_RATIO % 1
    lightness = _LIGHTNESSES[number % len(_LIGHTNESSES)]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def contrasting(colour: Colour) -> Colour:
    """Returns black or white, whichever has more contrast to a colour."""
    linear = [(channel / 255) ** 2.2 for channel in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return BLACK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else WHITE
