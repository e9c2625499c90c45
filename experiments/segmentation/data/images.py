"""Resizes images (a stand-in with the interface of the pipeline)."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def fitted(image: Image.Image, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """Resizes an RGB image to ``size``, height and width."""
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
