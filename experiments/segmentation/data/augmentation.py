"""The random crops and the photometric distortion of training images, as in mmseg."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments.data.classes import UNLABELLED
from experiments.data.record_images import resize_image
from experiments.segmentation.data.config import DataConfig
from experiments.segmentation.data.images import nearest
from experiments.segmentation.data.shapes import crop_source_size

# Number of random crops that may be rejected.
_ATTEMPTS = 10

# The ranges of mmseg's defaults.
_BRIGHTNESS = 32.0
_CONTRAST = 0.5, 1.5
_SATURATION = 0.5, 1.5
_HUE = 36.0  # degrees

# Pillow stores a hue of 360 degrees as 255, which is the same colour as 0.
_FULL_HUE = 255


def random_crop(
    image: Image.Image,
    label: UInt8[np.ndarray, "h w"],
    rng: np.random.Generator,
    config: DataConfig,
) -> tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]:
    """Scales an image and its label map at random, and crops both at random.

    The factor of the size is uniform within ``config.crop_scales``; see
    :func:`experiments.segmentation.data.shapes.crop_source_size`. A crop is rejected if it has no
    class, or if one class has more than the share ``config.crop_share`` of the pixels with a class.
    After ten rejected crops the next one is used anyway.

    Args:
        image: RGB image.
        label: class of each pixel of ``image``, 255 for no class.
        rng: random number generator.
        config: config of the data.

    Returns:
        The crop of the image, bilinear, and of the label map, nearest. Their sides are
        ``config.crop_side``, or the side of the scaled image if that is shorter.
    """
    lowest, highest = config.crop_scales
    factor = rng.uniform(lowest, highest)
    size = crop_source_size(image.height, image.width, factor, config)
    rows, columns = (nearest(length, new) for length, new in zip(label.shape, size, strict=True))
    for _ in range(_ATTEMPTS + 1):
        top, left = _corner(size, rng, config.crop_side)
        crop = _part(label, rows, columns, top, left, config.crop_side)
        if _is_varied(crop, config.crop_share):
            break
    # The whole image is scaled: Pillow rounds the position of a part that is scaled alone.
    pixels = resize_image(image, size)[top : top + config.crop_side, left : left + config.crop_side]
    return pixels, crop


def _corner(size: tuple[int, int], rng: np.random.Generator, side: int) -> tuple[int, int]:
    top, left = (int(rng.integers(max(length - side, 0), endpoint=True)) for length in size)
    return top, left


def _part(
    label: np.ndarray, rows: np.ndarray, columns: np.ndarray, top: int, left: int, side: int
) -> np.ndarray:
    return label[rows[top : top + side]][:, columns[left : left + side]]


def _is_varied(label: np.ndarray, share: float) -> bool:
    counts = np.bincount(label.ravel(), minlength=UNLABELLED + 1)[:UNLABELLED]
    return bool(0 < counts.max() <= share * counts.sum())


@dataclasses.dataclass(frozen=True)
class Distortion:
    """A change of the colours of an image. The defaults change nothing.

    Attributes:
        brightness: number added to all channels, whose values are 0..255. It is applied first.
        contrast: factor of all channels.
        contrast_last: whether the contrast is applied after saturation and hue, not before.
        saturation: factor of the saturation.
        hue: angle added to the hue, in degrees.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    contrast_last: bool = False
    saturation: float = 1.0
    hue: float = 0.0


def draw_distortion(rng: np.random.Generator) -> Distortion:
    """Draws a distortion.

    Each of the four changes is made with probability 1/2. Its amount is uniform in the range of
    mmseg's defaults: brightness within 32 of 255, contrast and saturation in [0.5, 1.5], hue within
    36 degrees. The contrast is last with probability 1/2.

    Args:
        rng: random number generator.
    """
    brightness, contrast, saturation, hue, last = rng.random(5) < 0.5
    return Distortion(
        brightness=rng.uniform(-_BRIGHTNESS, _BRIGHTNESS) if brightness else 0.0,
        contrast=rng.uniform(*_CONTRAST) if contrast else 1.0,
        contrast_last=bool(last),
        saturation=rng.uniform(*_SATURATION) if saturation else 1.0,
        hue=rng.uniform(-_HUE, _HUE) if hue else 0.0,
    )


def distorted(
    image: UInt8[np.ndarray, "h w 3"], distortion: Distortion
) -> UInt8[np.ndarray, "h w 3"]:
    """Changes the colours of an image.

    After each change, values are limited to 0..255 and rounded down. Saturation and hue are changed
    in Pillow's HSV of 8 bits; the hue wraps around.

    Args:
        image: RGB image.
        distortion: change of the colours.
    """
    changed = Image.fromarray(image)
    if distortion.brightness:
        changed = _mapped(changed, _line(1.0, distortion.brightness))
    if not distortion.contrast_last:
        changed = _with_contrast(changed, distortion.contrast)
    if distortion.saturation != 1 or distortion.hue:
        hue, saturation, value = changed.convert("HSV").split()
        hue = hue.point(_rotation(distortion.hue))
        saturation = saturation.point(_line(distortion.saturation))
        changed = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if distortion.contrast_last:
        changed = _with_contrast(changed, distortion.contrast)
    return np.asarray(changed)


def _with_contrast(image: Image.Image, contrast: float) -> Image.Image:
    return image if contrast == 1 else _mapped(image, _line(contrast))


def _mapped(image: Image.Image, table: list[int]) -> Image.Image:
    return image.point(table * 3)


def _line(factor: float, summand: float = 0.0) -> list[int]:
    """A table of a linear function of 8 bits."""
    return [int(value) for value in np.clip(np.arange(256) * factor + summand, 0, 255)]


def _rotation(degrees: float) -> list[int]:
    """A table of Pillow's hues, rotated."""
    steps = round(degrees / 360 * _FULL_HUE)
    return [(hue + steps) % _FULL_HUE for hue in range(256)]
