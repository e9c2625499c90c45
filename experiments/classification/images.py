"""From encoded images to squares of bytes, with Pillow."""

import io
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from experiments.classification.data_config import DataConfig
from experiments.data.pictures import open_picture, to_rgb
from experiments.data.records import RecordError
from experiments.engine.errors import InputError

_LARGEST_ASPECT = 4 / 3
_TRIES = 10
_LONGEST = 64  # times the shorter side, of what is scaled for an evaluation
_PADDING_SHARE = 8  # of the side, as in the 4 pixels of 32 that are usual for CIFAR


def decode_image(encoded: bytes) -> Image.Image:
    """Decodes a picture, wholly, to RGB; its EXIF orientation is ignored, as is usual.

    JPEGs are decoded in full size even if a smaller one would do: a decoder that shrinks halves
    the time for images of twice the size or more, but moves single pixels by up to 30 of 255, and
    most of ImageNet is too small for it.

    Raises:
        RecordError: it is no picture, truncated, animated or too large, or has more than 8 bits a
            channel.
    """
    name = f"an image of {len(encoded)} bytes"
    try:
        return to_rgb(open_picture(io.BytesIO(encoded), name, upright=False))
    except InputError as error:
        raise RecordError(str(error)) from error


def evaluation_crop(image: Image.Image, config: DataConfig) -> UInt8[np.ndarray, "side side 3"]:
    """Scales the shorter side to ``eval_resize`` and cuts the central square of ``image_side``.

    Args:
        image: of any mode and size.
        config: of the run.

    Returns:
        ``[S, S, 3]``: of a Pillow image, torchvision's ``Resize`` and ``CenterCrop`` and timm's
        evaluation give the same bytes. But of one more than 64 times as long as it is wide the
        middle alone is scaled, so that it does not fill the memory.
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
        box = random_resized_box(rng, image.width, image.height, config.smallest_area)
        sides = (config.image_side, config.image_side)
        square = to_rgb(image).resize(sides, _filter_of(config), box=box)
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
    # All is scaled and then cropped. To scale the crop's part of the source alone would be faster,
    # but Pillow rounds the place of that part: values are off by up to 2 of 255 then. torchvision
    # rounds the longer side down, and the corner to even.
    image = _middle(to_rgb(image))
    width, height = image.size
    side, resize, shorter = config.image_side, config.eval_resize, min(image.size)
    scaled = image.resize(
        (resize * width // shorter, resize * height // shorter), _filter_of(config)
    )
    left, top = (round((scaled_side - side) / 2) for scaled_side in scaled.size)
    return scaled.crop((left, top, left + side, top + side))


def _middle(image: Image.Image) -> Image.Image:
    """Cuts the ends off an image that would be scaled to one of any length."""
    longest = _LONGEST * min(image.size)
    if max(image.size) <= longest:
        return image
    left, top = (max(0, (side - longest) // 2) for side in image.size)
    width, height = (min(side, longest) for side in image.size)
    return image.crop((left, top, left + width, top + height))


def _filter_of(config: DataConfig) -> Image.Resampling:
    return Image.Resampling[config.interpolation.upper()]


def _moved(square: Image.Image, rng: np.random.Generator) -> Image.Image:
    padding = max(1, square.width // _PADDING_SHARE)
    left, top = (int(n) for n in rng.integers(-padding, padding, 2, endpoint=True))
    # Pillow fills with black what a crop takes from outside.
    return square.crop((left, top, left + square.width, top + square.height))
