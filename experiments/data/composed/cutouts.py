"""A tfds data set to classify: photographed objects, cut out, on crops of photographs.

Every pixel is real and the classes are what a child would name, while a small network learns them
in minutes. It is no benchmark: the objects are pasted, and few.
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
# Of the cutout's longer side, in shares of the image's.
_SMALLEST, _LARGEST = 0.4, 0.8


@dataclasses.dataclass(frozen=True)
class Cutout:
    """A cutout on disk.

    Attributes:
        name: unique, and the same on every machine: ``animals/birds/crow``.
        label: its class, a key of ``CLASSES``.
        path: an image file whose alpha channel is zero around the object.
    """

    name: str
    label: str
    path: Path


@dataclasses.dataclass(kw_only=True)
class CutoutsConfig(tfds.core.BuilderConfig):
    """How cutouts are pasted on photographs; the name follows from the rest.

    Attributes:
        photographs: ``"pypi"``: seven photographs that come with the dependencies.
            ``"debian"``: 71 photographs.
        side: of the images, in pixels.
        training_examples: equally many of each class, to within one.
        validation_examples: equally many of each class, to within one.
    """

    name: str = dataclasses.field(init=False)
    photographs: Literal["pypi", "debian"] = "debian"
    side: int = 96
    training_examples: int = 12_000
    validation_examples: int = 2_400

    def __post_init__(self) -> None:
        """Gives different data different names: by the name tfds tells what is there already."""
        self.name = (
            f"{self.photographs}-{self.side}-{self.training_examples}-{self.validation_examples}"
        )


class Cutouts(tfds.core.GeneratorBasedBuilder):
    """One cutout on each crop, at a random place, in a random size, mirrored or not.

    Split by cutout and by photograph: neither is in both splits.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, cache: Path, **options: Any) -> None:
        """Args: cache: the folder that :mod:`experiments.data.composed.debian` filled."""
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
        of_class = [[cutout for cutout in cutouts if cutout.label == label] for label in CLASSES]
        pictures = {cutout.name: read_cutout(cutout.path, side) for cutout in cutouts}
        backgrounds = [
            (photograph.name, crop)
            for photograph in photographs
            for _, crop in crops(photograph.path, CropsConfig(name="background", crop_side=side))
        ]
        for number in range(count):
            rng = np.random.default_rng((split, number))
            choices = of_class[number % len(of_class)]
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
        cache: the folder that `python -m experiments.data.composed.debian --cutouts` filled.

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
    """Splits each class into training and validation, a quarter and at least three, by hash."""
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
    """Reads a cutout as RGBA, without its empty margins, its longer side at most ``side``."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def pasted(
    rng: np.random.Generator, background: UInt8[np.ndarray, "side side 3"], cutout: Image.Image
) -> Image.Image:
    """Pastes a cutout in a random size at a random place; mirrors both at random.

    Args:
        rng: source of randomness.
        background: square.
        cutout: RGBA without empty margins; all of it will be in the image.

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
    """Builds the data set, unless it is there, and returns the folder to read it from.

    Args:
        data_dir: tfds keeps its data sets in folders below this one.
        cache: the folder that `python -m experiments.data.composed.debian --cutouts` filled.
        config: how cutouts are pasted.

    Raises:
        DataError: a cutout or a photograph is missing; the message names the command that
            fetches it.
    """
    builder = Cutouts(config=config or CutoutsConfig(), data_dir=data_dir, cache=cache)
    builder.download_and_prepare()
    return Path(builder.data_dir)
