"""Shows from which pixels a pixel of a filled picture is reassembled, when a visitor clicks it."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from carafe_jax.sources import smallest_sources
from experiments.engine.errors import InputError
from experiments.inpainting.prediction.inpainter import TracedImage
from experiments.inpainting.web.comparison import Model, with_hole
from experiments.source_maps.pathways import image_sources

_KEPT = 8  # fills of all visitors
_SHARE = 0.7  # fraction of the weight that the drawn pixels hold
_SHOWN_SIDE = 512  # least length in pixels of the longer side of a drawing
_RED, _GREEN, _WHITE = (230, 0, 0), (0, 255, 60), 255
_FAINTEST, _STRONGEST = 0.3, 0.9  # opacities


class Fills:
    """The newest fills of all visitors.

    Args:
        models: the models, by name.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._numbers = itertools.count()
        self._fills: dict[int, tuple[Path | str, Image.Image]] = {}
        # The kernels of a picture take tens of megabytes, and clicks on one picture follow each
        # other, so only the newest are kept.
        self._traced: tuple[tuple[int, str], TracedImage] | None = None

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
        self, number: int | None, name: str, column: int, row: int
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Draws where a pixel of a filled picture comes from.

        Args:
            number: number of the fill.
            name: name of the model that filled the picture.
            column: column of the pixel in the picture.
            row: row of the pixel in the picture.

        Returns:
            The grey picture at the size at which the network reads it, enlarged without
            interpolation, with a white hole. Red are the pixels that hold 70 % of the pixel's
            weight on its way through the coarsest map, and the pixel has a green frame. If the
            network only downsamples with CARAFE++, the frame encloses the pixel of the coarsest map
            in which the pixel lies.

        Raises:
            InputError: the fill is no longer kept, or the model has no maps for it.
        """
        if number not in self._fills:
            raise InputError("this picture was filled too long ago: press Fill again")
        picture, painted = self._fills[number]
        if self._traced is None or self._traced[0] != (number, name):
            image, hole = with_hole(picture, painted)
            self._traced = (number, name), self._models[name].trace(image, hole)
            self._size = hole.shape
        traced = self._traced[1]
        place = [
            min(index * small // large, small - 1)
            for index, small, large in zip(
                (row, column), traced.mask.shape, self._size, strict=True
            )
        ]
        return _drawn(traced, place)


def _drawn(traced: TracedImage, place: list[int]) -> UInt8[np.ndarray, "height width 3"]:
    pathway = traced.pathways.longest
    assert pathway is not None
    target = [index // pathway.target_stride for index in place]
    (weights,) = image_sources(pathway, [target], traced.mask.shape)
    chosen = np.asarray(smallest_sources(weights, _SHARE))
    relative = weights / max(float(weights.max()), np.finfo(np.float32).tiny)
    opacity = np.where(chosen, _FAINTEST + (_STRONGEST - _FAINTEST) * relative, 0)
    height, width = traced.mask.shape
    opacity = _enlarged(opacity, pathway.source_stride)[:height, :width, None]
    grey = np.where(traced.mask, _WHITE, traced.image.mean(axis=-1))[..., None]
    drawn = (grey * (1 - opacity) + np.array(_RED) * opacity).round().astype(np.uint8)
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
