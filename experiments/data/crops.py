"""A tfds data set of crops of real photographs, split by photograph."""

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image

from experiments.data.photographs import Photograph, debian_photographs, pypi_photographs

CROP_SIDE = 96
PHOTOGRAPH_SIDE = 256

_VALIDATION_SHARE = 0.2


@dataclasses.dataclass(kw_only=True)
class CropsConfig(tfds.core.BuilderConfig):
    """How photographs are cut into crops.

    Attributes:
        photograph_side: photographs are scaled so that their shorter side is this many pixels.
        crop_side: side of the square crops, in pixels.
        stride: between the corners of neighbouring crops, in pixels.
        minimum_gradient: crops below it are dropped; see :func:`gradient_energy`.
    """

    photograph_side: int = PHOTOGRAPH_SIDE
    crop_side: int = CROP_SIDE
    stride: int = 32
    minimum_gradient: float = 0.015


class PhotographCrops(tfds.core.GeneratorBasedBuilder):
    """Crops of photographs that software packages ship.

    The crops of one photograph all go to one split: neighbouring crops overlap, and a model that
    saw one would know the other. Smooth crops, such as sky, are dropped: they are filled almost
    perfectly by anything, and inflate PSNR.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (the name and kind of attribute that tfds reads)
        CropsConfig(name="pypi", description="The seven photographs of PyPI wheels."),
        CropsConfig(name="debian", description="71 photographs: those, and of Debian packages."),
    ]

    def __init__(self, *, photographs: Path | None = None, **options: Any) -> None:
        """Args: photographs: the folder that `python -m experiments.data.debian` filled."""
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
        if self.builder_config.name == "pypi":
            photographs = pypi_photographs()
        elif self._photographs is None:
            raise ValueError("photographs must name a folder for the 'debian' configuration")
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
    """Splits into training and validation, one fifth and at least two, in an order by hash."""
    ordered = sorted(photographs, key=lambda p: hashlib.sha256(p.name.encode()).hexdigest())
    count = max(2, round(len(ordered) * _VALIDATION_SHARE))
    return ordered[count:], ordered[:count]


def crops(
    path: Path, config: CropsConfig
) -> Iterator[tuple[tuple[int, int], UInt8[np.ndarray, "side side 3"]]]:
    """Yields ``(top, left)`` and crop, row by row, of a photograph scaled down or up to size."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = config.photograph_side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    height, width, _ = pixels.shape
    side, stride = config.crop_side, config.stride
    for top in range(0, height - side + 1, stride):
        for left in range(0, width - side + 1, stride):
            crop = pixels[top : top + side, left : left + side]
            if gradient_energy(crop) >= config.minimum_gradient:
                yield (top, left), np.ascontiguousarray(crop)


def gradient_energy(image: UInt8[np.ndarray, "height width 3"]) -> float:
    """Mean absolute difference of neighbouring pixels' grey values, which lie in [0, 1]."""
    grey = image.astype(np.float32).mean(axis=-1) / 255
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2


def prepare(name: str, data_dir: Path, photographs: Path | None = None) -> Path:
    """Builds the data set, unless it is there, and returns the folder to read it from.

    Args:
        name: ``"pypi"`` or ``"debian"``.
        data_dir: tfds keeps its data sets in folders below this one.
        photographs: see :class:`PhotographCrops`.

    Raises:
        FileNotFoundError: a photograph is missing; the message names the command that fetches it.
    """
    builder = PhotographCrops(config=name, data_dir=data_dir, photographs=photographs)
    builder.download_and_prepare()
    return Path(builder.data_dir)
