"""From encoded images to squares of bytes, with Pillow."""

import io
import math
import struct

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from experiments.classification.data_config import DataConfig
from experiments.data.picture_metadata import without_fragile_metadata
from experiments.data.picture_samples import check_samples
from experiments.data.pictures import to_rgb
from experiments.data.records import RecordError

Box = tuple[float, float, float, float]

_LARGEST_ASPECT = 4 / 3
_TRIES = 10
_PADDING_SHARE = 8  # of the side, as in the 4 pixels of 32 that are usual for CIFAR


def decode_image(encoded: bytes) -> Image.Image:
    """Decodes a JPEG or PNG, wholly, to RGB; its EXIF orientation is ignored, as is usual.

    JPEGs are decoded in full size even if a smaller one would do: a decoder that shrinks halves
    the time for images of twice the size or more, but moves single pixels by up to 30 of 255, and
    most of ImageNet is too small for it.

    Raises:
        RecordError: it does not decode, ends too early, or has more than 8 bits a channel.
    """
    try:
        file = without_fragile_metadata(io.BytesIO(encoded))
        image = Image.open(file, formats=("JPEG", "PNG"))
        check_samples(image, file, "the image")
        image.load()
        return to_rgb(image)
    except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        raise RecordError(
            f"expected a whole JPEG or PNG, got {len(encoded)} bytes: {error}"
        ) from error


def evaluation_crop(image: Image.Image, config: DataConfig) -> UInt8[np.ndarray, "side side 3"]:
    """Scales the shorter side to ``eval_resize`` and cuts the central square of ``image_side``.

    Args:
        image: of any mode and size.
        config: of the run.

    Returns:
        ``[S, S, 3]``, what torchvision's ``Resize`` and ``CenterCrop`` give, rounded alike.
    """
    return np.asarray(_central_square(image, config))


def training_crop(
    image: Image.Image, rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "side side 3"]:
    """Cuts a random square, which is mirrored at random if the config says so.

    Args:
        image: of any mode and size.
        rng: source of randomness.
        config: of the run.

    Returns:
        ``[S, S, 3]``.
    """
    if config.augmentation == "inception":
        square = _scaled(
            image,
            config.image_side,
            random_resized_box(rng, image.width, image.height, config.smallest_area),
        )
    else:
        square = _moved(_central_square(image, config), rng)
    if config.flip and rng.random() < 0.5:
        square = ImageOps.mirror(square)
    return np.asarray(square)


def random_resized_box(
    rng: np.random.Generator, width: int, height: int, smallest_area: float
) -> tuple[int, int, int, int]:
    """Draws the crop of Szegedy et al., "Going Deeper with Convolutions", section 6.

    Area: uniform in ``[smallest_area, 1]`` of the image. Aspect ratio: log-uniform in [3/4, 4/3].
    Drawn ten times at most until it fits; then the largest central crop within the ratios.

    Returns:
        left, top, right and bottom, in pixels.
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(smallest_area, 1)
        aspect = math.exp(rng.uniform(-math.log(_LARGEST_ASPECT), math.log(_LARGEST_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(width - w, endpoint=True))
            top = int(rng.integers(height - h, endpoint=True))
            return left, top, left + w, top + h
    w, h = (
        min(width, round(height * _LARGEST_ASPECT)),
        min(height, round(width * _LARGEST_ASPECT)),
    )
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _central_square(image: Image.Image, config: DataConfig) -> Image.Image:
    # The part of the source that the crop shows is scaled, rather than all of it and then cropped:
    # the same pixels for less. torchvision rounds the longer side down, and the corner to even.
    width, height = image.size
    side, resize = config.image_side, config.eval_resize
    shorter = min(width, height)
    scaled_width, scaled_height = resize * width // shorter, resize * height // shorter
    left, top = round((scaled_width - side) / 2), round((scaled_height - side) / 2)
    x, y = width / scaled_width, height / scaled_height
    right, bottom = min(width, (left + side) * x), min(height, (top + side) * y)
    return _scaled(image, side, (left * x, top * y, right, bottom))


def _scaled(image: Image.Image, side: int, box: Box) -> Image.Image:
    return to_rgb(image).resize((side, side), Image.Resampling.BILINEAR, box=box)


def _moved(square: Image.Image, rng: np.random.Generator) -> Image.Image:
    padding = max(1, square.width // _PADDING_SHARE)
    left, top = (int(n) for n in rng.integers(-padding, padding, 2, endpoint=True))
    # Pillow fills with black what a crop takes from outside.
    return square.crop((left, top, left + square.width, top + square.height))
