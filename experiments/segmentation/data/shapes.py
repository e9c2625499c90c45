"""The sizes to which images are scaled, and the shapes of the arrays that contain them.

Each shape is compiled once. In evaluation an image is resized to a multiple of 32, as in the
official implementation of UperNet. In training several images share an array, and so images are
grouped into buckets: by orientation, and by the first aspect ratio of the config into which they
fit. The shape of a batch depends on its bucket and on the length of the shorter side, which is
drawn for each batch.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from experiments.engine.config import check
from experiments.segmentation.data.config import DataConfig

type Shape = tuple[int, int]  # height and width in pixels

# The largest stride of the backbone.
_MULTIPLE = 32
# Limit of the longer side of a scaled image, as a multiple of the limit of its shorter side, for
# the view "crop".
_CROP_ASPECT = 4


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Images that can be in one batch, for the view ``"resize"``.

    Attributes:
        portrait: whether the images are higher than wide.
        aspect: aspect ratio, longer to shorter side, of the bucket's shapes.
    """

    portrait: bool
    aspect: float


def bucket_of(height: int, width: int, config: DataConfig) -> Bucket:
    """Returns the bucket of an image for the view ``"resize"``.

    Its aspect ratio is the first one whose shapes contain the scaled image for all of
    ``config.shorter_sides``, or the last one. An image of 512 x 683 pixels has a slightly greater
    aspect ratio than 4:3, but it fits into the shapes for 4:3, because these are multiples of 32.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        config: config of the data.
    """
    portrait = height > width
    for aspect in config.aspects:
        bucket = Bucket(portrait, aspect)
        if all(_fits(height, width, config, bucket, side) for side in config.shorter_sides):
            return bucket
    return Bucket(portrait, config.aspects[-1])


def bucket_shape(bucket: Bucket, shorter_side: int, config: DataConfig) -> Shape:
    """Returns the height and width of a batch's arrays for the view ``"resize"``.

    Both sides are multiples of 32. The longer one is at most ``config.longer``, rounded up.

    Args:
        bucket: bucket of the batch.
        shorter_side: length of the shorter side in pixels, one of ``config.shorter_sides``.
        config: config of the data.
    """
    longer_side = min(_rounded(bucket.aspect * shorter_side), config.longer)
    shorter, longer = _to_multiple(shorter_side), _to_multiple(longer_side)
    return (longer, shorter) if bucket.portrait else (shorter, longer)


def training_size(
    height: int, width: int, shorter_side: int, shape: Shape, config: DataConfig
) -> Shape:
    """Returns the height and width of a scaled image for the view ``"resize"``.

    The aspect ratio is kept, except for rounding: both sides are scaled by one factor and rounded
    half up. No side is shorter than a pixel.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        shorter_side: length in pixels to which the shorter side is scaled, unless the longer side
            would exceed ``config.longer``.
        shape: height and width of the array. An image that does not fit is scaled down further.
        config: config of the data.
    """
    scale = min(
        _scale(height, width, shorter_side, config.longer), shape[0] / height, shape[1] / width
    )
    return _scaled(height, width, scale)


def crop_source_size(height: int, width: int, factor: float, config: DataConfig) -> Shape:
    """Returns the height and width of the scaled image from which a crop is taken.

    The shorter side is scaled to ``factor * config.crop_shorter``, unless the longer side would
    exceed four times this length.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        factor: random factor, within ``config.crop_scales``.
        config: config of the data.
    """
    shorter = factor * config.crop_shorter
    return _scaled(height, width, _scale(height, width, shorter, _CROP_ASPECT * shorter))


def training_shapes(config: DataConfig) -> tuple[Shape, ...]:
    """Returns the height and width of every array of images in training, in ascending order.

    The default config has 28 shapes: 14 landscape shapes, because the limit of the longer side
    makes two of 3 x 5 equal, and 14 portrait shapes. The view ``"crop"`` has one shape.
    """
    if config.augmentation == "crop":
        return ((config.crop_side, config.crop_side),)
    shapes = {
        bucket_shape(Bucket(portrait, aspect), shorter_side, config)
        for portrait in (False, True)
        for aspect in config.aspects
        for shorter_side in config.shorter_sides
    }
    return tuple(sorted(shapes))


def evaluation_size(height: int, width: int, config: DataConfig, scale: float = 1.0) -> Shape:
    """Returns the height and width to which an image is resized in evaluation and prediction.

    The shorter side is scaled to ``config.test_shorter``, unless the longer side would exceed
    ``config.longer``. Both sides are rounded down to pixels, and then up to a multiple of 32, as in
    the official implementation of UperNet, so that the aspect ratio changes slightly.

    With the default config there are 75 results at scale 1. Either the shorter side is 480 and the
    longer one a multiple of 32 in 480..1216, or the longer side is 1216 and the shorter one a
    multiple of 32 in 32..448: 38 results for landscape images, and 37 more for portrait images.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        config: config of the data.
        scale: factor of both lengths of the config, for evaluation at several scales.
    """
    factor = _scale(height, width, config.test_shorter * scale, config.longer * scale)
    return _to_multiple(max(1, int(height * factor))), _to_multiple(max(1, int(width * factor)))


def evaluation_shapes(
    sizes: Int[np.ndarray, "records 2"] | Iterable[Shape],
    config: DataConfig,
    scales: Sequence[float] = (1.0,),
) -> tuple[tuple[Shape, ...], ...]:
    """Returns the different shapes of the batches of an evaluation, in ascending order.

    Args:
        sizes: height and width of each image in pixels.
        config: config of the data.
        scales: scales at which each image is evaluated.

    Returns:
        For each different shape of batches, height and width at each scale.
    """
    return tuple(sorted({evaluation_sizes(int(h), int(w), config, scales) for h, w in sizes}))


def evaluation_sizes(
    height: int, width: int, config: DataConfig, scales: Sequence[float]
) -> tuple[Shape, ...]:
    """Returns the :func:`evaluation_size` of an image at each scale.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        config: config of the data.
        scales: scales at which the image is evaluated.
    """
    return tuple(evaluation_size(height, width, config, scale) for scale in scales)


def check_scales(scales: Sequence[float]) -> None:
    """Raises ``ConfigError`` unless there are scales, all of them positive and finite."""
    fits = bool(scales) and all(0 < scale < math.inf for scale in scales)
    check(fits, "scales", "one or more, positive and finite", list(scales))


def _fits(height: int, width: int, config: DataConfig, bucket: Bucket, shorter_side: int) -> bool:
    scale = _scale(height, width, shorter_side, config.longer)
    size = _scaled(height, width, scale)
    shape = bucket_shape(bucket, shorter_side, config)
    return size[0] <= shape[0] and size[1] <= shape[1]


def _scale(height: int, width: int, shorter: float, longer: float) -> float:
    """The largest factor with which neither side exceeds its limit."""
    return min(shorter / min(height, width), longer / max(height, width))


def _scaled(height: int, width: int, scale: float) -> Shape:
    return max(1, _rounded(height * scale)), max(1, _rounded(width * scale))


def _rounded(length: float) -> int:
    return int(length + 0.5)


def _to_multiple(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE
