"""Shows from which pixels a pixel of a filled picture is reassembled, when a visitor clicks it."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.inpainting.pixels import with_white_hole
from experiments.inpainting.prediction.inpainter import SeveralTilesError, TracedImage
from experiments.inpainting.web.comparison import Model, with_hole
from experiments.source_maps.figures import GREEN, RED, opacity
from experiments.source_maps.pathways import image_sources

_KEPT = 32  # fills of all visitors; a painted layer takes up to 2.4 MB
_SHOWN_SIDE = 512  # least length in pixels of the longer side of a drawing
_RED, _GREEN = (255 * np.array(colour) for colour in (RED, GREEN))


class Fills:
    """The newest fills of all visitors.

    One thread at a time may draw, while others add fills.

    Args:
        models: the models, by name.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._numbers = itertools.count()
        self._fills: dict[int, tuple[Path | str, Image.Image]] = {}
        # The kernels of a picture take tens of megabytes, and clicks on one picture follow each
        # other, so only the newest are kept, with the size of the picture.
        self._traced: tuple[tuple[int, str], TracedImage, tuple[int, ...]] | None = None

    def add(self, picture: Path | str, painted: Image.Image) -> int:
        """Keeps a fill in place of the oldest one.

        Args:
            picture: path of the picture.
            painted: the painted layer.

        Returns:
            The number of the fill.
        """
        number = next(self._numbers)
        self._fills[number] = picture, painted
        self._fills.pop(number - _KEPT, None)
        return number

    def draw(
        self, number: int | None, name: str, pixel: Any
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Draws where a pixel of a filled picture comes from.

        Args:
            number: number of the fill.
            name: name of the model that filled the picture.
            pixel: column and row of the pixel in the picture. Browsers may send any value.

        Returns:
            The grey picture at the size at which the network reads it, enlarged without
            interpolation, with a white hole. Red are the pixels that hold 70 % of the pixel's
            weight on its way through the coarsest map, and the pixel has a green frame. If the
            network only downsamples with CARAFE++, the frame encloses the pixel of the coarsest map
            in which the pixel lies.

        Raises:
            InputError: the fill is no longer kept, the pixel is not in the picture, or the model
                has no maps for it.
        """
        fill = None if number is None else self._fills.get(number)
        if number is None or fill is None:
            raise InputError("this picture is no longer kept: press Fill again")
        if self._traced is None or self._traced[0] != (number, name):
            image, hole = with_hole(*fill)
            self._traced = (number, name), _trace(self._models[name], image, hole), hole.shape
        _, traced, size = self._traced
        place = [
            index * small // large
            for index, small, large in zip(
                _checked(pixel, size), traced.mask.shape, size, strict=True
            )
        ]
        return _drawn(traced, place)


def _trace(
    model: Model, image: UInt8[np.ndarray, "h w 3"], hole: Bool[np.ndarray, "h w"]
) -> TracedImage:
    """Traces an image. The messages name no options of the command, which visitors do not have."""
    try:
        return model.trace(image, hole)
    except ConfigError as error:
        raise InputError(
            "this network has no maps: the source weights of its resamplers are not known"
        ) from error
    except SeveralTilesError as error:
        raise InputError(
            "this network has no map for this picture: it reads the picture in several tiles"
        ) from error


def _checked(pixel: Any, size: tuple[int, ...]) -> tuple[int, int]:
    """Returns the row and the column of a pixel, or raises ``InputError``."""
    height, width = size
    match pixel:
        case [int(column), int(row)] if 0 <= column < width and 0 <= row < height:
            return row, column
    raise InputError(
        f"the pixel must be a column and a row of the picture of {width}x{height} pixels, got "
        f"{pixel!r}"
    )


def _drawn(traced: TracedImage, place: list[int]) -> UInt8[np.ndarray, "height width 3"]:
    pathway = traced.pathways.longest
    assert pathway is not None
    target = [index // pathway.target_stride for index in place]
    (weights,) = image_sources(pathway, [target], traced.mask.shape)
    height, width = traced.mask.shape
    share = _enlarged(opacity(weights), pathway.source_stride)[:height, :width, None]
    grey = with_white_hole(traced.image, traced.mask).mean(axis=-1, keepdims=True)
    drawn = (grey * (1 - share) + _RED * share).round().astype(np.uint8)
    factor = max(1, -(-_SHOWN_SIDE // max(height, width)))
    drawn = _enlarged(drawn, factor)
    side = factor * pathway.target_stride
    top, left = (side * index for index in target)
    inner = drawn[top : top + side, left : left + side].copy()
    line = max(2, factor // 2)
    drawn[max(0, top - line) : top + side + line, max(0, left - line) : left + side + line] = _GREEN
    drawn[top : top + side, left : left + side] = inner
    return drawn


def _enlarged(values: np.ndarray, factor: int) -> np.ndarray:
    return values.repeat(factor, axis=0).repeat(factor, axis=1)
