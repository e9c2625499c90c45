"""A tfds dataset for classification: cutouts of photographed objects on crops of photographs.

All pixels are from photographs and the classes are simple things, yet a small network learns them
in minutes. It is not a benchmark, because the objects are few, and pasted.
"""

import dataclasses
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from PIL import Image, ImageOps

from experiments.data.composed.crops import CropsConfig, crops, split_by_photograph
from experiments.data.composed.cutouts_manifest import CLASSES, CUTOUTS, cached_name
from experiments.data.composed.debian import is_complete
from experiments.data.composed.photographs import Photograph, debian_photographs, pypi_photographs
from experiments.data.errors import DataError

_VALIDATION_SHARE = 0.25
_FEWEST_VALIDATION_CUTOUTS = 3
# Limits of the longer side of a cutout, as shares of the side of the image.
_SMALLEST, _LARGEST = 0.4, 0.8


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A picture of an object with a transparent surround, on disk.

    Attributes:
        name: unique name, the same on every machine: ``animals/birds/crow``.
        label: class of the object, a key of ``CLASSES``.
        path: path of an image whose alpha channel is zero around the object.
    """

    name: str
    label: str
    path: Path


@dataclasses.dataclass(kw_only=True)
class CutoutsConfig(tfds.core.BuilderConfig):
    """How cutouts are pasted on photographs; the name of the config depends on the other fields.

    Attributes:
        photographs: source of the photographs. ``"pypi"``: seven that come with the dependencies.
            ``"debian"``: 71.
        side: side of the images, in pixels.
        training_examples: number of training images, shared equally by the classes, to within one.
        validation_examples: number of validation images, shared equally by the classes, to within
            one.
    """

    name: str = dataclasses.field(init=False)
    photographs: Literal["pypi", "debian"] = "debian"
    side: int = 96
    training_examples: int = 12_000
    validation_examples: int = 2_400

    def __post_init__(self) -> None:
        """Sets the name, by which tfds recognises a dataset that was built before."""
        self.name = (
            f"{self.photographs}-{self.side}-{self.training_examples}-{self.validation_examples}"
        )


class Cutouts(tfds.core.GeneratorBasedBuilder):
    """Images with one cutout on a crop of a photograph, in random position, size and mirroring.

    No cutout and no photograph is in both splits.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, cache: Path, **options: Any) -> None:
        """Args: cache: folder that :mod:`experiments.data.composed.debian` filled."""
        self._cache = cache
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.side
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                    "cutout": tfds.features.Text(),
                    "photograph": tfds.features.Text(),
                }
            ),
            homepage="https://tuxpaint.org/stamps",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        config = self.builder_config
        cutouts = split_by_cutout(fetched_cutouts(self._cache))
        photographs = split_by_photograph(
            pypi_photographs() if config.photographs == "pypi" else debian_photographs(self._cache)
        )
        counts = (config.training_examples, config.validation_examples)
        return {
            split: self._generate_examples(number, cutouts[number], photographs[number], count)
            for number, (split, count) in enumerate(
                zip(("train", "validation"), counts, strict=True)
            )
        }

    def _generate_examples(
        self, split: int, cutouts: Sequence[Cutout], photographs: Sequence[Photograph], count: int
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        side = self.builder_config.side
        cutouts_by_class = [
            [cutout for cutout in cutouts if cutout.label == label] for label in CLASSES
        ]
        pictures = {cutout.name: read_cutout(cutout.path, side) for cutout in cutouts}
        backgrounds = [
            (photograph.name, crop)
            for photograph in photographs
            for _, crop in crops(photograph.path, CropsConfig(name="background", crop_side=side))
        ]
        for number in range(count):
            rng = np.random.default_rng((split, number))
            choices = cutouts_by_class[number % len(cutouts_by_class)]
            cutout = choices[rng.integers(len(choices))]
            photograph, background = backgrounds[rng.integers(len(backgrounds))]
            encoded = io.BytesIO()
            pasted(rng, background, pictures[cutout.name]).save(encoded, format="png")
            encoded.seek(0)
            yield (
                number,
                {
                    "image": encoded,
                    "label": cutout.label,
                    "cutout": cutout.name,
                    "photograph": photograph,
                },
            )


def fetched_cutouts(cache: Path) -> tuple[Cutout, ...]:
    """Returns the cutouts of all classes.

    Args:
        cache: folder that `python -m experiments.data.composed.debian --cutouts` filled.

    Raises:
        DataError: a cutout is missing or damaged in ``cache``.
    """
    if not is_complete(cache, CUTOUTS):
        raise DataError(
            f"cache {cache} lacks cutouts of {CUTOUTS.name}: "
            f"run `python -m experiments.data.composed.debian --cutouts --cache {cache}`"
        )
    return tuple(
        Cutout(name, label, cache / CUTOUTS.name / cached_name(name))
        for label, names in CLASSES.items()
        for name in names
    )


def split_by_cutout(cutouts: Sequence[Cutout]) -> tuple[list[Cutout], list[Cutout]]:
    """Splits each class by a hash; a quarter, and at least three cutouts, are for validation."""
    train, validation = [], []
    for label in CLASSES:
        ordered = sorted(
            (cutout for cutout in cutouts if cutout.label == label),
            key=lambda cutout: hashlib.sha256(cutout.name.encode()).hexdigest(),
        )
        count = max(_FEWEST_VALIDATION_CUTOUTS, round(len(ordered) * _VALIDATION_SHARE))
        validation += ordered[:count]
        train += ordered[count:]
    return train, validation


def read_cutout(path: Path, side: int) -> Image.Image:
    """Reads a cutout as RGBA, without empty margins, its longer side at most ``side`` pixels."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def pasted(
    rng: np.random.Generator, background: UInt8[np.ndarray, "side side 3"], cutout: Image.Image
) -> Image.Image:
    """Pastes a cutout with random size and position; both images are mirrored at random.

    Args:
        rng: random number generator.
        background: square RGB image, uint8 ``[side, side, 3]``.
        cutout: RGBA image without empty margins; it is pasted completely inside the image.

    Returns:
        An RGB image of the size of ``background``.
    """
    image = Image.fromarray(background)
    side = image.width
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if rng.random() < 0.5:
        cutout = ImageOps.mirror(cutout)
    scale = side * rng.uniform(_SMALLEST, _LARGEST) / max(cutout.size)
    width, height = (max(1, round(length * scale)) for length in cutout.size)
    cutout = cutout.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (int(rng.integers(side - length, endpoint=True)) for length in cutout.size)
    image.paste(cutout, (left, top), cutout)
    return image


def prepare(data_dir: Path, cache: Path, config: CutoutsConfig | None = None) -> Path:
    """Builds the dataset, unless it exists, and returns the folder from which to read it.

    Args:
        data_dir: folder of the tfds datasets.
        cache: folder that `python -m experiments.data.composed.debian --cutouts` filled.
        config: config of the dataset; the default is :class:`CutoutsConfig`.

    Raises:
        DataError: a cutout or a photograph is missing; the message names the command that
            fetches it.
    """
    builder = Cutouts(config=config or CutoutsConfig(), data_dir=data_dir, cache=cache)
    builder.download_and_prepare()
    return Path(builder.data_dir)
