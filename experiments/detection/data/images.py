"""Decodes images and resizes them to the two input shapes of the detector, with Pillow."""

import io
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from experiments.data.pictures import open_picture, to_rgb
from experiments.data.records import RecordError
from experiments.detection.data.config import DataConfig
from experiments.engine.errors import InputError
from experiments.engine.text import printable

# The stride of the coarsest level that FPN upsamples. FPN_CARAFE also upsamples the level above it,
# of stride 64, and crops the result.
_MULTIPLE = 32

_log = logging.getLogger(__name__)


def is_portrait(height: int, width: int) -> bool:
    """Whether an image belongs in the portrait bucket; a square image does not."""
    return height > width


def bucket_shape(config: DataConfig, portrait: bool) -> tuple[int, int]:
    """Height and width of a bucket: the config's sides, rounded up to multiples of 32."""
    shorter, longer = (
        -(-side // _MULTIPLE) * _MULTIPLE for side in (config.shorter, config.longer)
    )
    return (longer, shorter) if portrait else (shorter, longer)


def resized_size(height: int, width: int, config: DataConfig, portrait: bool) -> tuple[int, int]:
    """Height and width to which an image is resized in a bucket.

    The aspect ratio is kept, except for rounding. In its own bucket an image has exactly the size
    that mmcv's ``rescale_size`` computes: both sides are scaled by one factor and rounded half up.
    detectron2 scales the longer side twice if it is the limit, so that a half is sometimes rounded
    differently. No side is shorter than a pixel.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        config: config of the data; ``shorter`` and ``longer`` are used.
        portrait: whether the bucket is the portrait one. An image of the opposite orientation is
            scaled down until it fits.
    """
    bucket_height, bucket_width = bucket_shape(config, portrait)
    scale = min(
        config.shorter / min(height, width),
        config.longer / max(height, width),
        bucket_height / height,
        bucket_width / width,
    )
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def decode_image(record: Mapping[str, Any]) -> Image.Image:
    """Decodes a record's image to RGB and ignores its EXIF orientation.

    The annotations are in coordinates of the stored pixels.

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
        size: height and width of the resized image in pixels; see :func:`resized_size`.
        shape: height and width of the bucket in pixels; see :func:`bucket_shape`.
        flip: whether the image is mirrored.

    Returns:
        The padded image, ``[*shape, 3]``.
    """
    height, width = size
    # Pillow widens its filter by the downsampling factor, which prevents aliasing.
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if flip:
        image = ImageOps.mirror(image)  # nine times faster than in numpy
    bucket = np.zeros((*shape, 3), np.uint8)
    bucket[:height, :width] = np.asarray(image)
    return bucket
