"""A tfds dataset of crops of real photographs, split by photograph."""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from experiments.data.composed.photographs import Photograph, debian_photographs, pypi_photographs

CROP_SIDE = 96
PHOTOGRAPH_SIDE = 256
LARGE_CROP_SIDE = 288
LARGE_PHOTOGRAPH_SIDE = 512

_VALIDATION_SHARE = 0.2


@dataclasses.dataclass(kw_only=True)
class CropsConfig(tfds.core.BuilderConfig):
    """How photographs are cut into crops.

    Attributes:
        photographs: source of the photographs. ``"pypi"``: seven, from PyPI wheels. ``"debian"``:
            these seven, and 64 from Debian packages.
        photograph_side: length to which the shorter side of photographs is scaled, in pixels; see
            :func:`scaled_size`.
        crop_side: side of the square crops, in pixels.
        stride: distance between neighbouring crops, in pixels.
        minimum_gradient: lower limit of :func:`gradient_energy`; crops below it are dropped.
    """

    photographs: Literal["pypi", "debian"] = "pypi"
    photograph_side: int = PHOTOGRAPH_SIDE
    crop_side: int = CROP_SIDE
    stride: int = 32
    minimum_gradient: float = 0.015


# The largest crop for training, 256, is taken from one of 288. Neighbouring pixels of a larger
# photograph differ less: the limit 0.01 drops the same share of the crops, four in ten.
_LargeCropsConfig = functools.partial(
    CropsConfig,
    photograph_side=LARGE_PHOTOGRAPH_SIDE,
    crop_side=LARGE_CROP_SIDE,
    stride=64,
    minimum_gradient=0.01,
)


class PhotographCrops(tfds.core.GeneratorBasedBuilder):
    """Crops of photographs that software packages ship.

    All crops of one photograph are in one split: neighbouring crops overlap, so a model that was
    trained on one would know the other. Smooth crops, such as sky, are dropped: every method fills
    them almost perfectly, which inflates PSNR.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (the name and kind of attribute that tfds reads)
        CropsConfig(name="pypi", photographs="pypi"),
        CropsConfig(name="debian", photographs="debian"),
        _LargeCropsConfig(name="pypi-large", photographs="pypi"),
        _LargeCropsConfig(name="debian-large", photographs="debian"),
    ]

    def __init__(self, *, photographs: Path | None = None, **options: Any) -> None:
        """Args: photographs: folder that :mod:`experiments.data.composed.debian` filled."""
        self._photographs = photographs
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.crop_side
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "photograph": tfds.features.Text(),
                }
            ),
            homepage="https://pypi.org/project/scikit-image",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        if self.builder_config.photographs == "pypi":
            photographs = pypi_photographs()
        elif self._photographs is None:
            raise ValueError(
                f"photographs must name a folder for {self.builder_config.name!r}, got None"
            )
        else:
            photographs = debian_photographs(self._photographs)
        train, validation = split_by_photograph(photographs)
        return {
            "train": self._generate_examples(train),
            "validation": self._generate_examples(validation),
        }

    def _generate_examples(
        self, photographs: Sequence[Photograph]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for photograph in photographs:
            for (top, left), crop in crops(photograph.path, self.builder_config):
                encoded = io.BytesIO()
                Image.fromarray(crop).save(encoded, format="png")
                encoded.seek(0)
                key = f"{photograph.name}-{top:04}-{left:04}"
                yield key, {"image": encoded, "photograph": photograph.name}


def split_by_photograph(
    photographs: Sequence[Photograph],
) -> tuple[list[Photograph], list[Photograph]]:
    """Splits photographs by a hash; one fifth, and at least two, are for validation."""
    ordered = sorted(photographs, key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    count = max(2, round(len(ordered) * _VALIDATION_SHARE))
    return ordered[count:], ordered[:count]


def crops(
    path: Path, config: CropsConfig
) -> Iterator[tuple[tuple[int, int], UInt8[np.ndarray, "side side 3"]]]:
    """Yields ``(top, left)`` and crop, row by row, from a photograph in its :func:`scaled_size`."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side, stride = config.crop_side, config.stride
    size = scaled_size(image.size, side, config.photograph_side)
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    height, width, _ = pixels.shape
    for top in range(0, height - side + 1, stride):
        for left in range(0, width - side + 1, stride):
            crop = pixels[top : top + side, left : left + side]
            if gradient_energy(crop) >= config.minimum_gradient:
                yield (top, left), np.ascontiguousarray(crop)


def scaled_size(size: tuple[int, int], crop_side: int, photograph_side: int) -> tuple[int, int]:
    """Returns the size in which a photograph is cut into crops.

    The photograph is scaled down until its shorter side is ``photograph_side``. A smaller one is
    not enlarged, because this would only add blur, unless a crop would not fit into it.

    Args:
        size: width and height of the photograph, in pixels.
        crop_side: side of the crops, in pixels.
        photograph_side: length of the shorter side of a scaled photograph, in pixels.

    Returns:
        Width and height, in pixels.
    """
    shorter = max(crop_side, min(photograph_side, *size))
    width, height = (round(n * shorter / min(size)) for n in size)
    return width, height


def photograph_side(crop_side: int) -> int:
    """Returns the side, in pixels, to which photographs are scaled for a given side of crops."""
    return PHOTOGRAPH_SIDE if crop_side <= CROP_SIDE else LARGE_PHOTOGRAPH_SIDE


def gradient_energy(image: UInt8[np.ndarray, "height width 3"]) -> float:
    """Returns the mean absolute difference of neighbouring grey values, which lie in [0, 1]."""
    grey = image.astype(np.float32).mean(axis=-1) / 255
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2


def prepare(
    source: Literal["pypi", "debian"],
    data_dir: Path,
    photographs: Path | None = None,
    crop_side: int = CROP_SIDE,
) -> Path:
    """Builds the dataset, unless it exists, and returns the folder from which to read it.

    Args:
        source: ``"pypi"``: photographs that come with the dependencies. ``"debian"``: also
            photographs from Debian packages.
        data_dir: folder of the tfds datasets.
        photographs: folder that `python -m experiments.data.composed.debian` filled; required for
            ``"debian"``.
        crop_side: lower limit of the side of the crops, in pixels; at most 288.

    Raises:
        DataError: a photograph is missing; the message names the command that fetches it.
        ValueError: ``crop_side`` is too large.
    """
    if crop_side > LARGE_CROP_SIDE:
        raise ValueError(f"crop_side must be at most {LARGE_CROP_SIDE} (pixels), got {crop_side}")
    name = source if crop_side <= CROP_SIDE else f"{source}-large"
    builder = PhotographCrops(config=name, data_dir=data_dir, photographs=photographs)
    builder.download_and_prepare()
    return Path(builder.data_dir)
