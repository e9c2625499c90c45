"""Decodes the images of records, and resizes them to fixed shapes, with Pillow."""

import io
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from experiments.data.pictures import open_picture, to_rgb
from experiments.data.records import RecordError
from experiments.engine.errors import InputError
from experiments.engine.text import printable

_log = logging.getLogger(__name__)


def decode_image(record: Mapping[str, Any]) -> Image.Image:
    """Decodes a record's image to RGB and ignores its EXIF orientation.

    The annotations are in coordinates of the stored pixels.

    Args:
        record: record with ``image``, encoded bytes; ``file_name``, str, for the message; and
            ``height`` and ``width``, int, in pixels.

    Raises:
        RecordError: the image does not decode, or its size differs from the annotated size.
    """
    name = f"image {record['file_name']}"
    try:
        image = to_rgb(open_picture(io.BytesIO(record["image"]), name, upright=False))
        annotated = (record["width"], record["height"])
        if image.size != annotated:
            raise InputError(f"{name} must be {annotated} wide and high, got {image.size}")
    except InputError as error:
        # The engine reports records by number, from which the file cannot be recognised.
        _log.warning("%s", printable(error))
        raise RecordError(str(error)) from error
    return image


def fit_image(
    image: Image.Image, size: tuple[int, int], shape: tuple[int, int], flip: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an image and puts it in the top left corner of a bucket, padded with zeros.

    Args:
        image: RGB image.
        size: height and width of the resized image in pixels.
        shape: height and width of the bucket in pixels, at least those of ``size``.
        flip: whether the image is mirrored.

    Returns:
        The padded image, ``[*shape, 3]``.
    """
    return pad_image(resize_image(image, size, flip), shape)


def resize_image(
    image: Image.Image, size: tuple[int, int], flip: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an image bilinearly.

    Args:
        image: RGB image.
        size: height and width of the result in pixels.
        flip: whether the image is mirrored.
    """
    height, width = size
    # Pillow widens its filter by the downsampling factor, which prevents aliasing.
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if flip:
        image = ImageOps.mirror(image)  # nine times faster than in numpy
    return np.asarray(image)


def pad_image(
    image: UInt8[np.ndarray, "h w 3"], shape: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Puts an image in the top left corner of a black array.

    Args:
        image: the image.
        shape: height and width of the result in pixels, at least those of the image.
    """
    padded = np.zeros((*shape, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded
