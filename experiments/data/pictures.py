"""A user's own pictures: from a file, of which nothing is known, to an image in memory."""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.engine.errors import InputError

MAX_PIXELS = 20_000 * 20_000

# What cameras and browsers write. Pillow knows more, some of which it hands to other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")
_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr"}

_PROCESS_WIDE = threading.Lock()


def open_picture(
    source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Decodes a picture wholly.

    Of a picture with a depth or gain map, as telephones take them, the picture is taken.

    Args:
        source: a file's path, or an open file.
        name: begins the messages of errors, such as "image photo.jpg".
        max_pixels: of the largest picture that is decoded; larger ones are refused by what their
            header says.
        upright: whether it is turned as its EXIF orientation says.

    Returns:
        The image in the file's own mode; see :func:`to_rgb`.

    Raises:
        InputError: the file is missing, no picture, truncated, animated or too large, or has
            more than 8 bits a channel.
    """
    try:
        with _pillow_refuses_above(max_pixels):
            Image.init()
            formats = [name for name in _FORMATS if name in Image.OPEN]
            opened = Image.open(source, formats=formats)
        with opened:
            _check_kind(opened, name)
            # TIFF is alone in checking the size again: others decode beside each other.
            with (
                _pillow_refuses_above(max_pixels)
                if opened.format == "TIFF"
                else contextlib.nullcontext()
            ):
                opened.load()
            if upright:
                with _pillow_refuses_above(max_pixels):
                    ImageOps.exif_transpose(opened, in_place=True)
            return opened
    except InputError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own message has the path, which is not for everyone who sees ours.
        raise InputError(f"{name} cannot be read: no picture of a known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} must have at most {max_pixels:,} pixels, got more") from error
    except Exception as error:
        # A broken file leads decoders to almost any error, MemoryError included.
        message = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {message}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB; what is transparent shows the colour that lies under it."""
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")  # at once, Pillow warns about palettes with transparency
    return image.convert("RGB")


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder itself, but hidden ones, by name."""
    return sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )


def _check_kind(image: Image.Image, name: str) -> None:
    # The further images of an MPO belong to the first: a map, or the other eye's view.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(f"{name} must be a single picture, got several frames")
    # Pillow would quietly cut colours of 16 bits down to 8; only its raw modes tell of them.
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    raw_modes = [str(found[0] if isinstance(found, tuple) else found) for found in arguments]
    mode = next((raw for raw in raw_modes if ";16" in raw), image.mode)
    if mode not in _MODES:
        raise InputError(
            f"{name} must be grey, RGB, CMYK or paletted, with 8 bits a channel, got mode {mode}"
        )


@contextlib.contextmanager
def _pillow_refuses_above(max_pixels: int) -> Iterator[None]:
    """Sets Pillow's limit, and silences what else it warns of; both are the whole process's."""
    with _PROCESS_WIDE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
