"""Two models fill one picture: what the page of :mod:`experiments.inpainting.web.serve` answers."""

import io
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from experiments.data.pictures import PictureError, open_picture, to_rgb
from experiments.inpainting.prediction.holes import InputError, check_hole

MAX_PIXELS = 16_000_000
# A browser paints on this, whatever the picture: its canvas, and what it sends, stay small.
_PREVIEW_SIDE = 768


class Model(Protocol):
    """What fills holes: :class:`experiments.inpainting.prediction.inpainter.Inpainter`."""

    @property
    def shapes_compiled(self) -> int:
        """For how many shapes it has been compiled so far, each when it is first met."""

    def __call__(
        self, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """A new image, filled where the mask is true."""


class Filled(NamedTuple):
    """What a model made of a picture.

    Attributes:
        image: the filled picture.
        seconds: that it took.
        compile_seconds: that it took longer at first, where the model was compiled for it; else 0.
    """

    image: UInt8[np.ndarray, "h w 3"]
    seconds: float
    compile_seconds: float


class Comparison:
    """Reads pictures and holes of a page's visitors, and has each model fill them.

    Args:
        models: by what the page calls them.
    """

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = {name: _Timed(model) for name, model in models.items()}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def fill(self, picture: Path | None, painted: bytes | None) -> dict[str, Filled]:
        """Fills the painted part of a picture with every model, one after the other.

        Args:
            picture: the uploaded file.
            painted: an image file of the size of :func:`preview`, transparent outside the hole.

        Returns:
            By the name of the model, what it made.

        Raises:
            PictureError: the picture or what is painted is no image that can be used.
            InputError: nothing is painted, or everything.
        """
        image = np.asarray(_read(picture))
        hole = _read_hole(painted, image.shape[:2])
        return {name: model(image, hole) for name, model in self._models.items()}


def preview(picture: Path | None) -> Image.Image:
    """The picture as it is painted on: at most 768 pixels wide and high.

    Raises:
        PictureError: it is no picture, or none that can be filled.
    """
    image = _read(picture)
    return image.resize(_preview_size(image.size), Image.Resampling.LANCZOS)


class _Timed:
    """Times a fill; one is made at a time, as two would slow each other down."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray, hole: np.ndarray) -> Filled:
        with self._lock:
            compiled = self._model.shapes_compiled
            filled, seconds = self._fill(image, hole)
            first = seconds
            if self._model.shapes_compiled > compiled:
                filled, seconds = self._fill(image, hole)
        return Filled(filled, seconds, max(0.0, first - seconds))

    def _fill(self, image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        filled = self._model(image, hole)
        return filled, time.perf_counter() - start


def _read(picture: Path | None) -> Image.Image:
    if picture is None:
        raise PictureError("there is no picture yet: drop one first")
    image = open_picture(picture, "the picture", MAX_PIXELS)
    if not _is_opaque(image):
        raise PictureError("the picture must be opaque, got transparent pixels")
    return to_rgb(image)


def _is_opaque(image: Image.Image) -> bool:
    if not image.has_transparency_data:
        return True
    alpha = image if "A" in image.getbands() else image.convert("RGBA")
    return alpha.getchannel("A").getextrema() == (255, 255)


def _read_hole(painted: bytes | None, size: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The painted pixels, at the size (height and width) of the picture."""
    if painted is None:
        raise InputError("the picture has no hole: paint over what is to be filled")
    height, width = size
    expected = _preview_size((width, height))
    layer = open_picture(io.BytesIO(painted), "the painted hole", _PREVIEW_SIDE**2)
    if layer.size != expected:
        raise InputError(
            f"the painted hole must have the size of the picture on the page, {expected[0]}x"
            f"{expected[1]}, got {layer.size[0]}x{layer.size[1]}: drop the picture again"
        )
    # The brush's soft edge belongs to the hole: whatever is painted is to go.
    hole = Image.fromarray(np.asarray(layer.convert("RGBA"))[..., 3] > 0)
    mask = np.asarray(hole.resize((width, height), Image.Resampling.NEAREST))
    check_hole(mask, "the picture")
    return mask


def _preview_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _PREVIEW_SIDE / max(size))
    width, height = (max(1, round(scale * side)) for side in size)
    return width, height
