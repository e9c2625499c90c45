"""Rotates pictures as their EXIF or XMP metadata say, even if other metadata are damaged."""

import re
import struct
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin

_INTEGERS = {1: "B", 3: "H", 4: "I"}  # data types of EXIF
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = range(5, 9)
_INVERSE_TURNS = _TURNS | {6: _TURNS[8], 8: _TURNS[6]}


def turned(image: Image.Image) -> Image.Image:
    """Rotates or mirrors a decoded picture as its metadata say.

    The orientation comes from the EXIF or, if the EXIF has none or cannot be read, from the XMP.
    The orientation of an AVIF is a property of the file, which Pillow presents as EXIF. Values
    other than integers in 1..8 are ignored, and so are all other metadata.

    Returns:
        ``image`` itself or a new image; the metadata in ``info`` are unchanged.
    """
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def is_quarter_turn(image: Image.Image) -> bool:
    """Whether the orientation swaps width and height of a picture that is not decoded yet."""
    return _orientation(image) in _QUARTER_TURNS


def load_tiff(image: TiffImagePlugin.TiffImageFile, upright: bool) -> Image.Image:
    """Decodes a TIFF, which Pillow rotates as its metadata say while it loads it.

    Args:
        image: image as opened by ``Image.open``.
        upright: whether to keep this rotation; otherwise it is undone.
    """
    # Keeps only the orientation, so that Pillow cannot fail on other tags.
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]
    exif = image.getexif()
    for tag in set(exif) - {ExifTags.Base.Orientation}:
        del exif[tag]
    turn = None if upright else _INVERSE_TURNS.get(exif.get(ExifTags.Base.Orientation, 1))
    image.load()
    return image if turn is None else image.transpose(turn)


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Returns width and height of a picture that is not decoded yet, before it is rotated."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.size
    # Pillow gives the size after the rotation.
    tags = image.tag_v2
    return tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]


def _orientation(image: Image.Image) -> int:
    """Returns the orientation in ``info`` of a picture; 1 if there is none."""
    info = image.info
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # the tags of a TIFF are its EXIF
        found = image.tag_v2.get(ExifTags.Base.Orientation)
    else:
        found = _orientation_of_exif(_exif(info))
    if found is None and image.format != "AVIF":
        found = _orientation_of_xmp(info.get("XML:com.adobe.xmp") or info.get("xmp"))
    return 1 if found is None else found


def _exif(info: Mapping[Any, Any]) -> bytes:
    if isinstance(info.get("exif"), bytes):
        return info["exif"]
    # The format of ImageMagick in PNG: a name, a length, and lines of hexadecimal digits.
    digits = "".join(str(info.get("Raw profile type exif", "")).split("\n")[3:])
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return b""


def _orientation_of_exif(exif: bytes) -> int | None:
    """Reads one entry of the first directory; Pillow would stop at the first damaged one."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, start)
        for offset in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, offset)
            if tag == ExifTags.Base.Orientation:
                code = _INTEGERS.get(kind) if count == 1 else None
                found = struct.unpack_from(f"{order}{code}", exif, offset + 8)[0] if code else 0
                return found if 1 <= found <= 8 else None
    except struct.error:  # truncated
        pass
    return None


def _orientation_of_xmp(xmp: object) -> int | None:
    text = xmp.encode() if isinstance(xmp, str) else xmp
    found = _XMP_ORIENTATION.search(text) if isinstance(text, bytes) else None
    return int(found[1]) if found else None
