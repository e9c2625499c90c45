"""From encoded images to the two input shapes of the detector, with Pillow."""

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

# The stride of the coarsest level that FPN upsamples. FPN_CARAFE crops the level above.
_MULTIPLE = 32

_log = logging.getLogger(__name__)


def is_portrait(height: int, width: int) -> bool:
    """Whether an image belongs in the portrait bucket; a square one does not."""
    return height > width


def bucket_shape(config: DataConfig, portrait: bool) -> tuple[int, int]:
    """Height and width of a bucket: the config's sides, rounded up to multiples of 32."""
    shorter, longer = (
        -(-side // _MULTIPLE) * _MULTIPLE for side in (config.shorter, config.longer)
    )
    return (longer, shorter) if portrait else (shorter, longer)


def resized_size(height: int, width: int, config: DataConfig, portrait: bool) -> tuple[int, int]:
    """Height and width of an image in a bucket; its aspect ratio stays, but for rounding.

    In its own bucket an image has the size that mmcv's ``rescale_size`` gives it, to the bit of the
    arithmetic: both sides are scaled by one factor, and rounded half up. detectron2 scales the
    longer side twice where it is the limit, so that now and then a half falls on the other side. No
    side is shorter than a pixel.

    Args:
        height: of the image.
        width: of the image.
        config: its shorter and longer count.
        portrait: the bucket. An image of the other orientation is made small enough for it.
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
    """Decodes a record's image to RGB, as it is stored: its EXIF orientation is ignored.

    The annotations' coordinates are those of the stored pixels.

    Raises:
        RecordError: it does not decode, or is not of the size that was annotated.
    """
    name = f"image {record['file_name']}"
    try:
        image = to_rgb(open_picture(io.BytesIO(record["image"]), name, upright=False))
        annotated = (record["width"], record["height"])
        if image.size != annotated:
            raise InputError(f"{name} must be {annotated} wide and high, got {image.size}")
    except InputError as error:
        # The engine tells of records by their number, which says little of a file.
        _log.warning("%s", printable(error))
        raise RecordError(str(error)) from error
    return image


def fit_image(
    image: Image.Image, size: tuple[int, int], shape: tuple[int, int], flip: bool = False
) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an image, and lays it in the top left of a bucket; the rest is 0.

    Args:
        image: RGB.
        size: height and width to resize it to; see :func:`resized_size`.
        shape: of the bucket; see :func:`bucket_shape`.
        flip: whether it is mirrored.

    Returns:
        ``[*shape, 3]``.
    """
    height, width = size
    # Pillow's filter grows with the factor by which it shrinks, so that nothing aliases.
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if flip:
        image = ImageOps.mirror(image)  # in a ninth of the time that numpy takes
    bucket = np.zeros((*shape, 3), np.uint8)
    bucket[:height, :width] = np.asarray(image)
    return bucket
