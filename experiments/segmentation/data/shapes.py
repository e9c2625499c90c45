"""Sizes of images (a stand-in with the interface of the pipeline)."""

from experiments.segmentation.data.config import DataConfig

_MULTIPLE = 32


def evaluation_size(
    height: int, width: int, config: DataConfig, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width to which an image is resized in evaluation, multiples of 32."""
    factor = min(config.test_shorter / min(height, width), config.longer / max(height, width))
    sides = (max(1, round(factor * scale * side)) for side in (height, width))
    fitted_height, fitted_width = (-(-side // _MULTIPLE) * _MULTIPLE for side in sides)
    return fitted_height, fitted_width
