"""Decodes images, and crops them to squares of bytes, with Pillow."""

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
# Largest ratio of the longer to the shorter side of images that an evaluation scales as a whole.
_MAX_SCALED_ASPECT = 64
# Padding as a divisor of the side: 8 gives the 4 pixels of 32 that are usual for CIFAR.
_PADDING_SHARE = 8


def decode_image(encoded: bytes) -> Image.Image:
    """Decodes a picture completely, to RGB; its EXIF orientation is ignored, as is usual.

    JPEGs are decoded in full size even if a smaller size would do: a decoder that reduces the size
    takes half the time for images of at least twice the size, but changes single pixels by up to 30
    of 255, and most images of ImageNet are too small for it.

    Raises:
        RecordError: the image is not a picture, truncated, animated or too large, or has more than
            8 bits a channel.
    """
    name = f"an image of {len(encoded)} bytes"
    try:
        return to_rgb(open_picture(io.BytesIO(encoded), name, upright=False))
    except InputError as error:
        raise RecordError(str(error)) from error


def evaluation_crop(image: Image.Image, config: DataConfig) -> UInt8[np.ndarray, "side side 3"]:
    """Scales the shorter side to ``eval_resize`` and crops the central square of ``image_side``.

    Args:
        image: image of any mode and size.
        config: data config of the run.

    Returns:
        Pixels ``[S, S, 3]``, the same as from torchvision's ``Resize`` and ``CenterCrop`` for
        Pillow images and from timm's evaluation. For an image more than 64 times as long as wide,
        only the middle is scaled, so that it does not fill the memory.
    """
    return np.asarray(_central_square(image, config))


def training_crop(
    image: Image.Image, rng: np.random.Generator, config: DataConfig
) -> UInt8[np.ndarray, "side side 3"]:
    """Crops a random square, and mirrors it at random if the config says so.

    Args:
        image: image of any mode and size.
        rng: random number generator.
        config: data config of the run.

    Returns:
        Pixels ``[S, S, 3]``.
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
    """Draws a crop as in Szegedy et al., "Going Deeper with Convolutions", section 6.

    The area is uniform in ``[smallest_area, 1]`` of the image, the logarithm of the aspect ratio
    uniform in [3/4, 4/3]. If the crop does not fit into the image in ten attempts, the largest
    central crop within the range of aspect ratios is used.

    Returns:
        Left, top, right and bottom, in pixels.
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
    # The whole image is scaled, and then cropped. Scaling only the source of the crop would be
    # faster, but Pillow rounds the position of the source, so that values would differ by up to 2
    # of 255. torchvision rounds the longer side down, and the corner to even.
    image = _middle(to_rgb(image))
    width, height = image.size
    side, resize, shorter = config.image_side, config.eval_resize, min(image.size)
    scaled = image.resize(
        (resize * width // shorter, resize * height // shorter), _filter_of(config)
    )
    left, top = (round((scaled_side - side) / 2) for scaled_side in scaled.size)
    return scaled.crop((left, top, left + side, top + side))


def _middle(image: Image.Image) -> Image.Image:
    """Crops the ends of an image that would otherwise be scaled to any length."""
    longest = _MAX_SCALED_ASPECT * min(image.size)
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
    # Pillow fills the part of a crop outside the image with black.
    return square.crop((left, top, left + square.width, top + square.height))
