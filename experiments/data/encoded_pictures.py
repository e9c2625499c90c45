"""Reads encoded pictures and their sizes, without decoding them, for datasets that store them."""

import io
from dataclasses import dataclass
from pathlib import Path

from experiments.data.errors import DataError
from experiments.data.pictures import picture_size
from experiments.engine.errors import InputError


@dataclass(frozen=True)
class EncodedPicture:
    """A picture file.

    Attributes:
        path: path of the file.
        content: bytes of the file.
        shape: height and width of the stored pixels.
        shown: height and width after the rotation by the orientation in the EXIF or XMP.
    """

    path: Path
    content: bytes
    shape: tuple[int, int]
    shown: tuple[int, int]

    def orientation_hint(self, expected: tuple[int, int]) -> str:
        """Returns the end of the message for an unexpected size: a cause, if one is known.

        Args:
            expected: expected height and width, in pixels.
        """
        if self.shown != expected or self.shape == expected:
            return ""
        return (
            ". Its EXIF orientation rotates it, but annotations must refer to the image as it is "
            "stored: rotate the pixels, and remove the orientation"
        )


def read_encoded(path: Path) -> EncodedPicture:
    """Reads a picture file, and its size from its header.

    Args:
        path: path of the file.

    Raises:
        DataError: the file cannot be read, or its header is not the header of a single picture
            with at most 8 bits a channel.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    name = f"image {path}"
    try:
        width, height = picture_size(io.BytesIO(content), name, upright=False)
        shown_width, shown_height = picture_size(io.BytesIO(content), name)
    except InputError as error:
        raise DataError(str(error)) from error
    return EncodedPicture(path, content, (height, width), (shown_height, shown_width))
