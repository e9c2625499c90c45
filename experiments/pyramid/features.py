"""The maps of a frozen MobileNetV2 for all images of the scenes, computed once and cached.

A folder ``<data_dir>/pyramid_features/<scenes>-<digest>`` holds for each split and each size of
images the maps C2 to C5 of the images in float16, their label maps, and their numbers in the split,
as ``.npy`` files. The images are neither scaled nor mirrored.

The digest is computed from the name of the scenes, which contains their config, from the weights of
MobileNetV2 and from :data:`experiments.pyramid.features_writing.VERSION`. The files also depend on
the photographs and cutouts from which scenes are composed, on the code that composes and prepares
scenes, and on the code of the normalisation and of MobileNetV2. The digest does not contain these,
so a change of them that changes the files must increase ``VERSION``.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.composed.scenes_writing import write_folder_once
from experiments.engine.folders import DataFolders
from experiments.engine.json_files import read_json
from experiments.pyramid.features_writing import (
    INDEX,
    VERSION,
    MakeExtractor,
    array_path,
    make_extractor,
    write_features,
)
from experiments.weights.public_file import pretrained_mobilenet

Split = Literal["train", "validation"]

_MAPS = ("c2", "c3", "c4", "c5")


class MappedArray:
    """An array in a file, which every process that reads it maps into its memory.

    Args:
        path: path of an ``.npy`` file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._array: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map would contain the whole array.
        return MappedArray, (self._path,)

    def __len__(self) -> int:
        return len(self._mapped())

    def __getitem__(self, index: int) -> np.ndarray:
        """Returns a copy of an entry along the first axis."""
        return np.array(self._mapped()[index])

    def _mapped(self) -> np.ndarray:
        if self._array is None:
            self._array = np.load(self._path, mmap_mode="r")
        return self._array


@dataclasses.dataclass(frozen=True)
class SizeGroup:
    """The images of a split that have one size.

    Attributes:
        size: height and width of the images in pixels.
        numbers: number of each image within the split, ascending, int64 ``[n]``.
        maps: C2, C3, C4 and C5 of the images, each float16 ``[n, H, W, C]``.
        labels: label maps, uint8 ``[n, height, width]``.
    """

    size: tuple[int, int]
    numbers: Int64[np.ndarray, " n"]
    maps: tuple[MappedArray, ...]
    labels: MappedArray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Returns ``maps``, a tuple of float16 ``[H, W, C]``, and ``label`` of an image."""
        return {"maps": tuple(each[row] for each in self.maps), "label": self.labels[row]}


@dataclasses.dataclass(frozen=True)
class Features:
    """The cached features of all images of the scenes.

    Attributes:
        folder: folder of the files.
        class_names: names of the classes, by number.
        groups: for each split, its images grouped by their size, in ascending order of the sizes.
    """

    folder: Path
    class_names: tuple[str, ...]
    groups: dict[str, tuple[SizeGroup, ...]]

    def count(self, split: Split) -> int:
        """Returns the number of images of a split."""
        return sum(map(len, self.groups[split]))


def prepare_features(
    scenes: ScenesConfig, folders: DataFolders, extractor: MakeExtractor = make_extractor
) -> Path:
    """Computes the features of all images, unless the folder exists, and returns the folder.

    The scenes are composed first, if necessary. If several processes call this function at the same
    time, one of them computes the features, and the others wait.

    Args:
        scenes: config of the scenes.
        folders: folders of the datasets, and of the files from which scenes are composed.
        extractor: function that makes the extractor of the maps from the file of the weights.

    Raises:
        DataError: the files from which scenes are composed are missing or damaged; the message
            names the command that fetches them.
        WeightsError: the weights of the backbone are missing or damaged.
    """
    weights = pretrained_mobilenet()
    folder = folders.data_dir / "pyramid_features" / f"{scenes.name}-{_digest(scenes, weights)}"
    if not folder.is_dir():
        write_folder_once(
            folder,
            lambda unfinished: write_features(unfinished, scenes, folders, weights, extractor),
        )
    return folder


def open_features(
    scenes: ScenesConfig, folders: DataFolders, extractor: MakeExtractor = make_extractor
) -> Features:
    """Opens the features of all images, after :func:`prepare_features`.

    Args:
        scenes: config of the scenes.
        folders: folders of the datasets, and of the files from which scenes are composed.
        extractor: function that makes the extractor of the maps from the file of the weights.

    Raises:
        DataError: as in :func:`prepare_features`.
        WeightsError: as in :func:`prepare_features`.
    """
    folder = prepare_features(scenes, folders, extractor)
    index = read_json(folder / INDEX)
    groups = {
        split: tuple(_groups(folder, split, sizes)) for split, sizes in index["sizes"].items()
    }
    return Features(folder, tuple(index["class_names"]), groups)


def _groups(folder: Path, split: str, sizes: Sequence[Sequence[int]]) -> Iterator[SizeGroup]:
    for height, width in sizes:
        paths = [array_path(folder, split, (height, width), name) for name in _MAPS]
        labels = array_path(folder, split, (height, width), "labels")
        numbers = np.load(array_path(folder, split, (height, width), "numbers"))
        maps = tuple(map(MappedArray, paths))
        yield SizeGroup((height, width), numbers, maps, MappedArray(labels))


def _digest(scenes: ScenesConfig, weights: Path) -> str:
    """The first digits of the digest in the name of the folder; see the module."""
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return hashlib.sha256(f"{VERSION} {scenes.name} {digest}".encode()).hexdigest()[:16]
