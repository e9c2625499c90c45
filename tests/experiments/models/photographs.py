"""Photographs of scikit-image as a classifier of ImageNet reads them."""

import numpy as np
from PIL import Image

from experiments.classification.data_config import DataConfig
from experiments.classification.images import evaluation_crop
from experiments.data.composed.photographs import pypi_photographs
from experiments.models.input_config import InputConfig
from experiments.models.input_normalization import normalize


def central_crops(*names):
    """Returns normalised central crops ``[B, 224, 224, 3]`` of photographs, by their names."""
    paths = {photograph.name: photograph.path for photograph in pypi_photographs()}
    images = [Image.open(paths[f"skimage-{name}"]) for name in names]
    crops = np.stack([evaluation_crop(image, DataConfig()) for image in images])
    return np.asarray(normalize(crops, InputConfig()))
