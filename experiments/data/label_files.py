"""Label maps of images: files with a class number for each pixel, read and checked."""

import io
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.classes import UNLABELLED
from experiments.data.errors import DataError
from experiments.data.pictures import open_picture
from experiments.engine.errors import InputError

_PNG = b"\x89PNG\r\n\x1a\n"
_GREY = 0  # colour type of PNG


@dataclass(frozen=True)
class LabelledImage:
    """An image file and its label file.

    Attributes:
        image: path of the image.
        label: path of the label.
        name: name of the image in the dataset.
        scene: name of the scene; ``""`` if it is not known.
    """

    image: Path
    label: Path
    name: str
    scene: str = ""


@dataclass(frozen=True)
class LabelFormat:
    """How label files store class numbers.

    Attributes:
        classes: number of classes, C.
        unlabelled: value of pixels without a class. 255: the values of the classes are 0..C-1.
            0: the values of the classes are 1..C.
        palettes: whether files may have a palette; the indices are then the class numbers.
        hint: end of the error message for labels with colours.
    """

    classes: int
    unlabelled: Literal[0, 255] = 255
    palettes: bool = True
    hint: str = ""

    @property
    def first(self) -> int:
        """The value of the first class."""
        return 1 if self.unlabelled == 0 else 0


@dataclass(frozen=True)
class LabelFiles:
    """The files of a dataset with label maps.

    Attributes:
        class_names: names of the classes, in the order of their numbers.
        splits: files of the splits ``"train"`` and ``"validation"``, in the order of the records.
        format: how the label files store class numbers.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Sequence[LabelledImage]]
    format: LabelFormat


def read_label(path: Path, form: LabelFormat) -> UInt8[np.ndarray, "height width"]:
    """Reads a label file.

    Args:
        path: path of a PNG file.
        form: how the file stores class numbers.

    Returns:
        The number of the class of each pixel, 0..C-1, or 255 for a pixel without a class.

    Raises:
        DataError: the file cannot be read, is not a PNG file, has colours or more than 8 bits, or
            has a pixel that is neither of a class nor unlabelled.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    name = f"label {path}"
    try:
        image = open_picture(io.BytesIO(content), name, upright=False)
    except InputError as error:
        raise DataError(str(error)) from error
    if not content.startswith(_PNG):
        raise DataError(f"{name} must be a PNG file, which keeps numbers exactly, got another file")
    modes = ("L", "1", "P") if form.palettes else ("L", "1")
    if image.mode not in modes:
        expected = "grey or have a palette" if form.palettes else "grey"
        raise DataError(
            f"{name} must be {expected}, with a class number for each pixel, got mode "
            f"{image.mode}{form.hint}"
        )
    return _class_numbers(name, _stored_values(image, content), form)


def encode_label(label: UInt8[np.ndarray, "height width"]) -> bytes:
    """Encodes class numbers as a grey PNG file."""
    encoded = io.BytesIO()
    Image.fromarray(label).save(encoded, "PNG")
    return encoded.getvalue()


def _stored_values(image: Image.Image, content: bytes) -> UInt8[np.ndarray, "height width"]:
    values = np.asarray(image).astype(np.uint8)
    # Files of Apple may have a chunk before the header.
    depth, kind = struct.unpack_from("BB", content, content.index(b"IHDR") + 12)
    # Pillow scales greys of 2 and 4 bits to 0..255.
    return values // (255 // (2**depth - 1)) if kind == _GREY and depth in (2, 4) else values


def _class_numbers(
    name: str, values: UInt8[np.ndarray, "height width"], form: LabelFormat
) -> UInt8[np.ndarray, "height width"]:
    last = form.first + form.classes - 1
    numbers = np.full(256, UNLABELLED, np.uint8)
    numbers[form.first : last + 1] = np.arange(form.classes)
    known = np.zeros(256, bool)
    known[form.first : last + 1] = True
    known[form.unlabelled] = True
    wrong = ~known[values]
    if wrong.any():
        row, column = (int(index[0]) for index in np.nonzero(wrong))
        raise DataError(
            f"{name} must have the values {form.first}..{last} (classes) or {form.unlabelled} "
            f"(unlabelled), got {values[row, column]} in row {row}, column {column}, and wrong "
            f"values in {wrong.sum()} of {wrong.size} pixels"
        )
    return numbers[values]
