"""Folders in the layout of ADE20K's scene parsing challenge of 2016."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.data.errors import DataError
from experiments.data.label_files import LabelFiles, LabelFormat, LabelledImage
from experiments.data.label_pairs import add_once, check_paired
from experiments.data.text_files import read_lines
from experiments.engine.text import shown

SPLITS = {"train": "training", "validation": "validation"}  # the subfolder of each split

_NEEDED = "ADEChallengeData2016 is needed, whose labels are grey and store class numbers"
_IMAGES = (".jpg", ".jpeg")
_LABELS = (".png",)
_FULL_RELEASE = "ADE20K_20*"  # ADE20K_2016_07_26 and ADE20K_2021_17_01
_FULL_LABEL = "_seg.png"


@dataclass(frozen=True)
class AdeLayout:
    """The class list and the numbers of a dataset in the layout of ADE20K.

    Images are `images/<split>/<stem>.jpg`, and labels are `annotations/<split>/<stem>.png`, where
    ``<split>`` is training or validation. Labels are grey, with class numbers from 1 on, and 0 for
    pixels without a class. The file `sceneCategories.txt` is optional; each line has a stem and its
    scene.

    Attributes:
        class_list: name of the file with the classes: columns separated by tabs, named in the first
            line; the columns Idx and Name are used.
        classes: number of classes.
        counts: number of images that each split must have; None allows any numbers.
    """

    class_list: str
    classes: int
    counts: Mapping[str, int] | None = None


def list_ade_files(folder: Path, layout: AdeLayout) -> LabelFiles:
    """Lists the files of a folder in the layout of ADE20K.

    Args:
        folder: folder with ``images`` and ``annotations``.
        layout: name of the class list, and numbers of classes and images in ``folder``.

    Raises:
        DataError: the folder has another layout or other numbers of images, a file is missing, or
            an image has no label or a label no image. The message names the file.
    """
    _check_release(folder)
    names = _class_names(folder / layout.class_list, layout.classes)
    scenes = _scenes(folder / "sceneCategories.txt")
    splits = {split: _pairs(folder, part, scenes) for split, part in SPLITS.items()}
    for split, pairs in splits.items():
        if layout.counts is not None and len(pairs) != layout.counts[split]:
            raise DataError(
                f"{folder / 'images' / SPLITS[split]} must have {layout.counts[split]} images, got "
                f"{len(pairs)}"
            )
    hint = f". The labels of the full ADE20K have colours, but {_NEEDED}"
    return LabelFiles(names, splits, LabelFormat(layout.classes, 0, palettes=False, hint=hint))


def _check_release(folder: Path) -> None:
    """Checks that a folder is not the full ADE20K, and does not contain the right folder."""
    inside = folder / "ADEChallengeData2016"
    if inside.is_dir():
        raise DataError(f"{folder} must have images and annotations: is {inside} meant?")
    for found in (folder.resolve(), *sorted(folder.glob(_FULL_RELEASE))):
        training = found / "images" / "training"
        # The full ADE20K has a folder of scenes for each letter.
        released = found.match(_FULL_RELEASE) and not (found / "annotations").is_dir()
        if released or (training / "a").is_dir():
            raise DataError(f"{found} is the full ADE20K, but {_NEEDED}")
        if label := next(training.glob(f"*{_FULL_LABEL}"), None):
            raise DataError(f"{label} is a label of the full ADE20K, but {_NEEDED}")


def _class_names(path: Path, count: int) -> tuple[str, ...]:
    lines = read_lines(path)
    header = [field.strip() for field in lines[0].split("\t")] if lines else []
    if not {"Idx", "Name"} <= set(header):
        raise DataError(f"{path} must begin with the names of columns, Idx and Name, got {header}")
    number, name = header.index("Idx"), header.index("Name")
    names = []
    for row, line in enumerate(lines[1:], 1):
        fields = [field.strip() for field in line.split("\t")]
        if len(fields) != len(header) or fields[number] != str(row) or not fields[name]:
            raise DataError(
                f"{path}, line {row + 1} must have the Idx {row} and a Name in {len(header)} "
                f"columns, got {shown(line)}"
            )
        if fields[name] in names:
            raise DataError(f"{path} must have each class once, got {shown(fields[name])} twice")
        names.append(fields[name])
    if len(names) != count:
        raise DataError(f"{path} must have {count} classes, got {len(names)}")
    return tuple(names)


def _scenes(path: Path) -> dict[str, str]:
    """Returns the scene of each stem; an empty dict if the file does not exist."""
    if not path.exists():
        return {}
    scenes = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2:
            raise DataError(
                f"{path}, line {number} must have an image and its scene, got {shown(line)}"
            )
        scenes[fields[0]] = fields[1]
    return scenes


def _pairs(folder: Path, part: str, scenes: Mapping[str, str]) -> tuple[LabelledImage, ...]:
    images = _by_stem(folder / "images" / part, _IMAGES)
    labels = _by_stem(folder / "annotations" / part, _LABELS)
    check_paired(images, labels)
    return tuple(
        LabelledImage(images[stem], labels[stem], images[stem].name, scenes.get(stem, ""))
        for stem in sorted(images)
    )


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if not entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from error
    found: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        add_once(found, path.stem, path)
    if not found:
        raise DataError(f"{folder} must have files {' or '.join(suffixes)}, got none")
    return found
