"""Opens pictures of users, from any file, as images in memory."""

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

# Formats that cameras and browsers write. For some other formats Pillow starts other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000")

_REASON_WARNING = re.compile("opening failed|not installed")  # in warnings of Pillow

_PILLOW_SETTINGS_LOCK = threading.Lock()


def open_picture(
    source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> Image.Image:
    """Decodes a picture completely.

    If the file also has a depth or gain map, as files of telephones do, the picture is used. EXIF
    and XMP of PNG, JPEG and WebP, and metadata chunks of PNG, are ignored if they cannot be read.

    Args:
        source: path of a file, or an open file.
        name: name at the start of error messages, such as "image photo.jpg".
        max_pixels: the largest allowed number of pixels; larger pictures are rejected when their
            header has been read.
        upright: whether to rotate the picture as the orientation in its EXIF or XMP says.

    Returns:
        The image in the mode of the file; see :func:`to_rgb`. A colour profile that cannot be read
        is None or empty in its ``info``.

    Raises:
        InputError: the file is missing, not a picture, truncated, animated or too large, or has
            more than 8 bits a channel.
    """
    with _opened(source, name, max_pixels) as opened:
        image = _load(opened, max_pixels, upright)
        _tidy_info(image)
        return image


def picture_size(
    source: Path | BinaryIO, name: str, max_pixels: int = MAX_PIXELS, upright: bool = True
) -> tuple[int, int]:
    """Returns the width and height of a picture, in pixels, without decoding it.

    Args:
        source: path of a file, or an open file.
        name: name at the start of error messages, such as "image photo.jpg".
        max_pixels: the largest allowed number of pixels.
        upright: whether to return the size after the rotation by the orientation.

    Raises:
        InputError: as for :func:`open_picture`, except for errors that only decoding finds.
    """
    with _opened(source, name, max_pixels) as opened:
        width, height = stored_size(opened)
        return (height, width) if upright and is_quarter_turn(opened) else (width, height)


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB; transparent pixels get the colour that is stored for them."""
    if image.mode == "RGB":
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")  # a direct conversion of palettes with transparency warns
    return image.convert("RGB")


def is_opaque(image: Image.Image) -> bool:
    """Whether all pixels of a picture are fully opaque."""
    if not image.has_transparency_data:
        return True
    alpha = image if "A" in image.getbands() else image.convert("RGBA")
    return alpha.getchannel("A").getextrema() == (255, 255)


def visible_files(folder: Path) -> list[Path]:
    """Returns the files of a folder, sorted by name, without hidden files and subfolders."""
    return sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )


@contextlib.contextmanager
def _opened(source: Path | BinaryIO, name: str, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture and checks its header; every error is raised as an InputError."""
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
        # A damaged file makes decoders raise almost any error, even MemoryError.
        message = str(error) or type(error).__name__
        raise InputError(f"{name} cannot be read: {message}") from error


def _open(file: BinaryIO, name: str, max_pixels: int) -> ImageFile.ImageFile:
    """Opens a picture, whose header is read."""
    try:
        with _pillow_refuses_above(max_pixels) as warned:
            Image.init()
            return Image.open(file, formats=[each for each in _FORMATS if each in Image.OPEN])
    except UnidentifiedImageError as error:
        file.seek(0)
        # Pillow's own message contains the path, which not every reader may see.
        message = f"{name} cannot be read: no picture of a known format"
        if other := describe(file.read(HEAD_LENGTH)):
            message += f", but {other}"
        elif reasons := [each for each in warned if _REASON_WARNING.search(each)]:
            message += f" ({'; '.join(reasons)})"
        raise InputError(message) from error


def _scale_transparent_grey(opened: ImageFile.ImageFile) -> None:
    """Scales a transparent grey to 8 bits, as Pillow does with greys of 2 and 4 bits themselves."""
    transparent = opened.info.get("transparency")
    if opened.format == "PNG" and opened.mode == "L" and isinstance(transparent, int):
        levels = {"L;2": 4, "L;4": 16}.get(str(opened.tile[0][3]), 256)
        opened.info["transparency"] = transparent * 255 // (levels - 1)


def _load(opened: ImageFile.ImageFile, max_pixels: int, upright: bool) -> Image.Image:
    # Only for TIFF does Pillow check the size again.
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        with _pillow_refuses_above(max_pixels):
            return load_tiff(opened, upright)
    opened.load()  # other pictures may be decoded at the same time
    return turned(opened) if upright else opened


def _check_single(image: Image.Image, name: str) -> None:
    # The further images of an MPO belong to the first: a map, or the view of the second eye.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise InputError(f"{name} must be a single picture, got several frames")


def _tidy_info(image: Image.Image) -> None:
    """Removes entries of a picture's ``info`` on which Pillow would fail later."""
    profile = image.info.get("icc_profile", b"")
    if not isinstance(profile, bytes):
        image.info["icc_profile"] = None
    # For a palette: the number of the transparent colour, or the opacity of each colour.
    expected = {"1": int, "L": int, "RGB": tuple, "P": int | bytes}.get(image.mode, ())
    transparent = image.info.pop("transparency", None)
    if isinstance(transparent, bytes):
        transparent = transparent[:256]
    beyond = image.mode == "P" and isinstance(transparent, int) and transparent > 255
    if isinstance(transparent, expected) and not beyond:
        image.info["transparency"] = transparent


@contextlib.contextmanager
def _pillow_refuses_above(max_pixels: int) -> Iterator[list[str]]:
    """Sets Pillow's limit of pixels for the whole process, and yields Pillow's other warnings."""
    warned: list[str] = []
    with _PILLOW_SETTINGS_LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        before = Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS
        Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS = max_pixels, True
        try:
            yield warned
        finally:
            Image.MAX_IMAGE_PIXELS, Image.WARN_POSSIBLE_FORMATS = before
            warned += [str(each.message) for each in caught]
