"""The two input shapes of the detector, and the sizes to which images are scaled."""

from experiments.detection.data.config import DataConfig


def is_portrait(height: int, width: int) -> bool:
    """Whether an image belongs in the portrait bucket; a square image does not."""
    return height > width


def bucket_shape(config: DataConfig, portrait: bool) -> tuple[int, int]:
    """Height and width of a bucket: the config's sides, rounded up to its multiple."""
    multiple = config.pad_multiple
    shorter, longer = (-(-side // multiple) * multiple for side in (config.shorter, config.longer))
    return (longer, shorter) if portrait else (shorter, longer)


def resized_size(height: int, width: int, config: DataConfig, portrait: bool) -> tuple[int, int]:
    """Height and width to which an image is resized in a bucket.

    The aspect ratio is kept, except for rounding. In its own bucket an image has exactly the size
    that mmcv's ``rescale_size`` computes: both sides are scaled by one factor and rounded half up.
    detectron2 scales the longer side twice if it is the limit, so that a half is sometimes rounded
    differently. With the rounding ``"floor"`` it is the size in torchvision. No side is shorter
    than a pixel.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        config: config of the data.
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
    half = 0.5 if config.rounding == "half_up" else 0.0
    return max(1, int(height * scale + half)), max(1, int(width * scale + half))
