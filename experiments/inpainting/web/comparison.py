"""Fills a painted hole in an image with several models."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from experiments.data.pictures import is_opaque, open_picture, to_rgb
from experiments.engine.errors import InputError
from experiments.inpainting.prediction.holes import check_hole
from experiments.inpainting.prediction.inpainter import TracedImage

MAX_PIXELS = 16_000_000
# Visitors paint on a preview, so that the browser's canvas is small for any picture.
_PREVIEW_SIDE = 768


class Model(Protocol):
    """Fills holes; see :class:`experiments.inpainting.prediction.inpainter.Inpainter`."""

    @property
    def shapes_compiled(self) -> int:
        """Number of shapes for which the model has been compiled so far."""

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a new image, filled where the mask is true."""

    def trace(
        self, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
    ) -> TracedImage:
        """Returns the pathways of the network on an image with a hole."""


class Filled(NamedTuple):
    """A picture that a model has filled.

    Attributes:
        image: the filled picture.
        seconds: time of the fill in seconds, without compilation.
        compile_seconds: time of compilation in seconds; 0 if the model was already compiled for the
            shape.
    """

    image: UInt8[np.ndarray, "h w 3"]
    seconds: float
    compile_seconds: float


def fill_with_each(
    models: Mapping[str, Model], picture: Path | str | None, painted: Image.Image | None
) -> dict[str, Filled]:
    """Fills the painted part of a picture with every model, one after the other.

    Args:
        models: the models, by name.
        picture: path of the picture; None if the visitor has given none.
        painted: the painted layer, transparent outside the hole, with the size of :func:`preview`;
            None if nothing is painted.

    Returns:
        The filled picture of each model, by the model's name.

    Raises:
        InputError: there is no picture, or it cannot be filled; or nothing or everything is
            painted, or the layer has a different size.
    """
    image, hole = with_hole(picture, painted)
    return {name: _fill(model, image, hole) for name, model in models.items()}


def with_hole(
    picture: Path | str | None, painted: Image.Image | None
) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Reads a picture, and scales the painted layer to its size.

    Args:
        picture: path of the picture; None if the visitor has given none.
        painted: the painted layer, as in :func:`fill_with_each`.

    Returns:
        The RGB image, and its mask, true in the hole.

    Raises:
        InputError: there is no picture, or it cannot be filled; or nothing or everything is
            painted, or the layer has a different size.
    """
    image = np.asarray(_read(picture))
    return image, _hole(painted, image.shape[:2])


def preview(picture: Path | str | None) -> Image.Image:
    """Returns the image on which visitors paint: RGB, at most 768 pixels wide and high.

    Args:
        picture: path of the picture; None if the visitor has given none.

    Raises:
        InputError: there is no picture, or it cannot be filled.
    """
    image = _read(picture)
    return image.resize(_preview_size(image.size), Image.Resampling.LANCZOS)


def _fill(model: Model, image: np.ndarray, hole: np.ndarray) -> Filled:
    compiled = model.shapes_compiled
    filled, seconds = _timed(model, image, hole)
    if model.shapes_compiled == compiled:
        return Filled(filled, seconds, 0.0)
    first = seconds
    filled, seconds = _timed(model, image, hole)
    return Filled(filled, seconds, max(0.0, first - seconds))


def _timed(model: Model, image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    filled = model(image, hole)
    return filled, time.perf_counter() - start


def _read(picture: Path | str | None) -> Image.Image:
    if picture is None:
        raise InputError("there is no picture yet: drop a picture first")
    image = open_picture(Path(picture), "the picture", MAX_PIXELS)
    if not is_opaque(image):
        raise InputError("the picture must be opaque, got transparent pixels")
    return to_rgb(image)


def _hole(painted: Image.Image | None, shape: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The painted pixels, at the height and width of the picture."""
    if painted is None:
        raise InputError("the picture has no hole: paint over the part to be filled")
    height, width = shape
    expected = _preview_size((width, height))
    if painted.size != expected:
        raise InputError(
            f"the painted hole must have the size of the picture on the page, {expected[0]}x"
            f"{expected[1]}, got {painted.width}x{painted.height}: drop the picture again"
        )
    # The soft edge of the brush belongs to the hole: all painted pixels must be replaced.
    layer = Image.fromarray(np.asarray(painted.convert("RGBA"))[..., 3] > 0)
    hole = np.asarray(layer.resize((width, height), Image.Resampling.NEAREST))
    check_hole(hole, "the picture")
    return hole


def _preview_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _PREVIEW_SIDE / max(size))
    width, height = (max(1, round(scale * side)) for side in size)
    return width, height
