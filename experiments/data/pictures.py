"""A user's own pictures: from a file, of which nothing is known, to an image in memory."""

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from experiments.data.picture_metadata import without_fragile_metadata
from experiments.data.picture_orientation import (
    is_quarter_turn,
    load_tiff,
    stored_size,
    turned,
)
from experiments.data.picture_samples import check_samples
from experiments.data.picture_signatures import HEAD_LENGTH, describe
from experiments.engine.errors import InputError

MAX_PIXELS = 20_000 * 20_000

# What cameras and browsers write. Pillow knows more, some of which it hands to other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")

_REASON = re.compile("opening failed|not installed")  # in what Pillow warns of

_PROCESS_WIDE = threading.Lock()


def open_picture(
    source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Decodes a picture wholly.

    Of a picture with a depth or gain map, which telephones add, the picture is taken. EXIF and XMP
    of PNG, JPEG and WebP, and chunks of PNG beside the pixels, are ignored if they cannot be read.

    Args:
        source: a file's path, or an open file.
        name: begins the messages of errors, such as "image photo.jpg".
        max_pixels: of the largest picture that is decoded; larger ones are refused by what their
            header says.
        upright: whether it is turned as its orientation says, in its EXIF or else in its XMP.

    Returns:
        The image in the file's own mode; see :func:`to_rgb`. A colour profile that cannot be read
        is None or empty in its ``info``.

    Raises:
        InputError: the file is missing, no picture, truncated, animated or too large, or has
            more than 8 bits a channel.
    """
    with _opened(source, name, max_pixels) as opened:
        image = _load(opened, max_pixels, upright)
        _tidy_info(image)
        return image


def picture_size(
    source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> tuple[int, int]:
    """The width and height of a picture, in pixels, without decoding it.

    Args:
        source: a file's path, or an open file.
        name: begins the messages of errors, such as "image photo.jpg".
        max_pixels: of the largest picture that is no error.
        upright: whether it is turned as its orientation says.

    Raises:
        InputError: as :func:`open_picture`, but for what only decoding shows.
    """
    with _opened(source, name, max_pixels) as opened:
        width, height = stored_size(opened)
        return (height, width) if upright and is_quarter_turn(opened) else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB; what is transparent shows the colour that lies under it."""
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")  # at once, Pillow warns about palettes with transparency
    return image.convert("RGB")


def is_opaque(image: Image.Image) -> bool:
    """Whether a picture has no pixel that is transparent, not even a little."""
    if not image.has_transparency_data:
        return True
    alpha = image if "A" in image.getbands() else image.convert("RGBA")
    return alpha.getchannel("A").getextrema() == (255, 255)


def visible_files(folder: Path) -> list[Path]:
    """The files in a folder itself, but hidden ones, by name."""
    return sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )


@contextlib.contextmanager
def _opened(source: Path | BinaryIO, name: str, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """A picture of which the header is read and checked; all that goes wrong is an InputError."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            file = without_fragile_metadata(file)
            opened = stack.enter_context(_open(file, name, max_pixels))
            check_samples(opened, file, name)
            _check_single(opened, name)
            _scale_transparent_grey(opened)
            yield opened
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{name} must have at most {max_pixels:,} pixels, got more") from error
    except Exception as error:
        # A broken file leads decoders to almost any error, MemoryError included.
        message = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {message}") from error


def _open(file: BinaryIO, name: str, max_pixels: int) -> ImageFile.ImageFile:
    """Reads the header of a picture."""
    try:
        with _pillow_refuses_above(max_pixels) as warned:
            Image.init()
            return Image.open(file, formats=[each for each in _FORMATS if each in Image.OPEN])
    except UnidentifiedImageError as error:
        file.seek(0)
        # Pillow's own message has the path, which is not for everyone who sees ours.
        message = f"{name} cannot be read: no picture of a known format"
        if other := describe(file.read(HEAD_LENGTH)):
            message += f", but {other}"
        elif reasons := [each for each in warned if _REASON.search(each)]:
            message += f" ({'; '.join(reasons)})"
        raise InputError(message) from error


def _scale_transparent_grey(opened: ImageFile.ImageFile) -> None:
    """Pillow makes greys of 2 and 4 bits 8 bits deep, but not the one that is transparent."""
    transparent = opened.info.get("transparency")
    if opened.format == "PNG" and opened.mode == "L" and isinstance(transparent, int):
        levels = {"L;2": 4, "L;4": 16}.get(str(opened.tile[0][3]), 256)
        opened.info["transparency"] = transparent * 255 // (levels - 1)


def _load(opened: ImageFile.ImageFile, max_pixels: int, upright: bool) -> Image.Image:
    if isinstance(opened, TiffImagePlugin.TiffImageFile):  # alone in checking the size again
        with _pillow_refuses_above(max_pixels):
            return load_tiff(opened, upright)
    opened.load()  # beside others that are decoded
    return turned(opened) if upright else opened


def _check_single(image: Image.Image, name: str) -> None:
    # The further images of an MPO belong to the first: a map, or the other eye's view.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(f"{name} must be a single picture, got several frames")


def _tidy_info(image: Image.Image) -> None:
    """Drops from a picture's ``info`` what Pillow would trip over later."""
    profile = image.info.get("icc_profile", b"")
    if not isinstance(profile, bytes):
        image.info["icc_profile"] = None
    # Of a palette: the number of the transparent colour, or the opacity of each.
    expected = {"1": int, "L": int, "RGB": tuple, "P": int | bytes}.get(image.mode, ())
    transparent = image.info.pop("transparency", None)
    if isinstance(transparent, bytes):
        transparent = transparent[:256]
    beyond = image.mode == "P" and isinstance(transparent, int) and transparent > 255
    if isinstance(transparent, expected) and not beyond:
        image.info["transparency"] = transparent


@contextlib.contextmanager
def _pillow_refuses_above(max_pixels: int) -> Iterator[list[str]]:
    """Sets Pillow's limit, and gives what else it warned of; both are the whole process's."""
    warned: list[str] = []
    with _PROCESS_WIDE, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS
        Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS = max_pixels, True
        try:
            yield warned
        finally:
            Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS = before
            warned += [str(each.message) for each in caught]
