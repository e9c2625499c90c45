"""Checks how a picture file stores its samples, because Pillow silently reduces them to 8 bits."""

import re
from typing import BinaryIO

from PIL import ImageFile, TiffImagePlugin

from experiments.engine.errors import InputError

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
_SIGNED = 2  # value of TIFF's tag SampleFormat
_REDUCED = 1  # value of TIFF's tag NewSubfileType
_SUBFILE_TYPE, _DNG_VERSION = 254, 50706
_CR2 = b"CR"  # follows the first eight bytes of the TIFF
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
# The box that describes the codec of an AVIF: marker and version, profile and level, and flags.
_AV1_CONFIGURATION = re.compile(rb"\0\0\0[\x0c-\xff]av1C\x81.(.)", re.DOTALL)
_HIGH_BITDEPTH, _TWELVE_BIT = 0x40, 0x20


def check_samples(image: ImageFile.ImageFile, file: BinaryIO, name: str) -> None:
    """Checks that a picture has colours or greys, and at most 8 bits a channel.

    Args:
        image: image as opened by ``Image.open``, not decoded yet.
        file: open file from which ``image`` is read.
        name: name at the start of error messages.

    Raises:
        InputError: the picture has more bits, signed numbers or unknown colours, or is a camera's
            raw file, for which Pillow would return the thumbnail.
    """
    if image.mode not in _MODES:
        raise InputError(
            f"{name} must be grey, RGB, CMYK or paletted, with 8 bits a channel, got mode "
            f"{image.mode}"
        )
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image, file, name)
    bits = _bits(image, file)
    if bits > 8:
        raise InputError(f"{name} must have at most 8 bits a channel, got {bits}")
    if image.mode in {"P", "PA"} and image.palette is None:
        raise InputError(f"{name} must have a palette, as it is paletted, got none")


def _check_tiff(image: TiffImagePlugin.TiffImageFile, file: BinaryIO, name: str) -> None:
    tags = image.tag_v2
    reduced = tags.get(_SUBFILE_TYPE, 0) == _REDUCED
    if reduced or _DNG_VERSION in tags or _read(file, 10).endswith(_CR2):
        raise InputError(
            f"{name} must be a picture, got a camera's raw file, or another TIFF that begins with "
            "a thumbnail: convert it to PNG or JPEG"
        )
    if _SIGNED in _numbers(tags.get(TiffImagePlugin.SAMPLEFORMAT, 1)):
        raise InputError(f"{name} must have unsigned samples, got signed ones")


def _bits(image: ImageFile.ImageFile, file: BinaryIO) -> int:
    """Returns the number of bits of the deepest channel, as stored in the file."""
    match image.format:
        case "PNG":
            head = _read(file, 64)  # the header may follow chunks of Apple
            return head[head.index(b"IHDR") + 12]
        case "TIFF":
            assert isinstance(image, TiffImagePlugin.TiffImageFile)
            return max(_numbers(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 1)))
        case "PPM":
            arguments = image.tile[0][3]
            # Raw samples have 8 bits; for other samples Pillow's decoder is given the maximum.
            return arguments[1].bit_length() if isinstance(arguments, tuple) else 8
        case "JPEG2000":
            return _bits_of_jpeg_2000(_read(file))
        case "AVIF":
            return _bits_of_avif(_read(file))
        case _:  # the only depth of other formats; the 16 bits of BMP are three channels
            return 8


def _read(file: BinaryIO, length: int = -1) -> bytes:
    before = file.tell()
    file.seek(0)
    data = file.read(length)
    file.seek(before)
    return data


def _numbers(value: object) -> tuple[int, ...]:
    """Returns the values of a TIFF tag; Pillow gives a single value without a tuple."""
    return value if isinstance(value, tuple) else (value,)


def _bits_of_jpeg_2000(data: bytes) -> int:
    start = data.find(_START_OF_CODESTREAM)
    if start < 0:
        return 8  # truncated; Pillow will report it
    size = data[start + 4 :]
    components = int.from_bytes(size[36:38])
    depths = size[38 : 38 + 3 * components : 3]
    return max((1 + (depth & 0x7F) for depth in depths), default=8)


def _bits_of_avif(data: bytes) -> int:
    # The first box describes the picture; boxes of its opacity and of a gain map follow.
    found = _AV1_CONFIGURATION.search(data)
    if found is None or not found[1][0] & _HIGH_BITDEPTH:
        return 8
    return 12 if found[1][0] & _TWELVE_BIT else 10
