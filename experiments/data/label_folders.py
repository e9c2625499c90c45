"""A user's own folders of images and labels, prepared as a dataset with label maps."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from experiments.data import label_maps_tfds
from experiments.data.errors import DataError
from experiments.data.folder import SUFFIXES, file_names, split_by_name
from experiments.data.label_files import LabelFiles, LabelFormat, LabelledImage
from experiments.data.label_pairs import add_once, check_paired
from experiments.data.text_files import read_lines
from experiments.engine.text import shown

MAX_CLASSES = 255  # labels are of 8 bits, and one value means no class

_SPLITS = {"train": "train", "validation": "val"}  # subfolders by the name of the split
_LABEL_SUFFIXES = (".png",)


@dataclass(frozen=True)
class LabelFolders:
    """Folders of images and labels.

    Attributes:
        images: folder of the images. If it has subfolders ``train`` and ``val``, they are the two
            splits, and other subfolders beside them are ignored; otherwise one image in ten is for
            validation. Images may be in subfolders.
        labels: folder of the labels. A label has the path of its image, except for the suffixes.
        class_list: text file with the name of a class in each line.
        image_suffix: text at the end of the names of images, before the dot, that is not in the
            names of labels; images without it are ignored.
        label_suffix: text at the end of the names of labels, before the dot, that is not in the
            names of images; labels without it are ignored.
        unlabelled: value of pixels without a class. 255: the first class has the number 0. 0: the
            first class has the number 1.
    """

    images: Path
    labels: Path
    class_list: Path
    image_suffix: str = ""
    label_suffix: str = ""
    unlabelled: Literal[0, 255] = 255


def read_class_list(path: Path) -> tuple[str, ...]:
    """Reads names of classes, one in each line.

    Args:
        path: path of a text file in UTF-8. Spaces at the ends of lines, and empty lines at the end
            of the file, are ignored.

    Raises:
        DataError: the file cannot be read, has an empty line between names, a name twice, or not
            1..255 names.
    """
    names = [line.strip() for line in read_lines(path)]
    if not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(
            f"{path} must have the names of 1..{MAX_CLASSES} classes, one in each line, got "
            f"{len(names)}"
        )
    lines: dict[str, int] = {}
    for line, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{path} must have the name of a class in line {line}, got none")
        first = lines.setdefault(name, line)
        if first != line:
            raise DataError(
                f"{path} must have each class once, got {shown(name)} in lines {first} and {line}"
            )
    return tuple(names)


def list_label_folders(folders: LabelFolders) -> LabelFiles:
    """Lists the images and labels of both splits, ordered by name.

    Args:
        folders: folders of images and labels.

    Raises:
        DataError: a folder or the class list cannot be read, a split has no images, an image has
            no label or a label no image, or the names of two files differ only in their ends.
    """
    names = read_class_list(folders.class_list)
    splits = {
        split: tuple(LabelledImage(images[key], labels[key], name) for key, name in keys.items())
        for split, (images, labels, keys) in _splits(folders).items()
    }
    hint = ". Replace colours by the numbers of the classes"
    return LabelFiles(names, splits, LabelFormat(len(names), folders.unlabelled, hint=hint))


def label_folders_digest(folders: LabelFolders) -> str:
    """Returns a digest of the labels, and of the names and sizes of the images, to notice changes.

    Args:
        folders: folders of images and labels.

    Raises:
        DataError: as :func:`list_label_folders`.
    """
    files = list_label_folders(folders)
    listed = [
        (split, pair.name, pair.image.stat().st_size, _digest_of(pair.label))
        for split, pairs in files.splits.items()
        for pair in pairs
    ]
    settings = (folders.image_suffix, folders.label_suffix, folders.unlabelled)
    everything = repr((files.class_names, settings, listed))
    return hashlib.sha256(everything.encode(errors="surrogateescape")).hexdigest()[:16]


def _digest_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def prepare_label_folders(data_dir: Path, folders: LabelFolders, digest: str) -> Path:
    """Prepares the dataset, unless it exists, and returns the folder from which to read it.

    If it exists, the folders are not read; they may have changed, or be missing.

    Args:
        data_dir: folder of the tfds datasets.
        folders: folders of images and labels.
        digest: digest of the files by :func:`label_folders_digest`, which names the dataset.

    Raises:
        DataError: a file is missing or invalid, or has changed since the digest was computed; the
            message names it.
        FolderError: ``data_dir`` cannot be written to.
    """

    def list_files() -> LabelFiles:
        if label_folders_digest(folders) != digest:
            raise DataError(
                f"{folders.images} and {folders.labels} must contain the same files as when the "
                "run was started, got different files"
            )
        return list_label_folders(folders)

    return label_maps_tfds.prepare(f"own-{digest}", data_dir, list_files)


_Split = tuple[dict[str, Path], dict[str, Path], dict[str, str]]


def _splits(folders: LabelFolders) -> dict[str, _Split]:
    """Returns images and labels by key, and the names of the images by key, of each split."""
    for what, folder in (("images", folders.images), ("labels", folders.labels)):
        if not folder.is_dir():
            raise DataError(f"{what} must be a folder, got {folder}")
    parts = _SPLITS.values()
    if all((folders.images / part).is_dir() for part in parts):
        return {split: _files(folders, part) for split, part in _SPLITS.items()}
    images, labels, keys = _files(folders, "")
    if len(keys) < 2:
        raise DataError(
            f"images must hold at least two images, for training and validation, got {len(keys)} "
            f"in {folders.images} and its subfolders"
        )
    by_name = {name: key for key, name in keys.items()}
    chosen = zip(_SPLITS, split_by_name(list(by_name)), strict=True)
    return {
        split: (images, labels, {by_name[name]: name for name in names}) for split, names in chosen
    }


def _files(folders: LabelFolders, part: str) -> _Split:
    image_folder, label_folder = folders.images / part, folders.labels / part
    if not label_folder.is_dir():
        raise DataError(f"labels must have a folder for {image_folder}, got no {label_folder}")
    image_names = set(file_names(image_folder, "images"))
    label_names = set(file_names(label_folder, "labels", _LABEL_SUFFIXES))
    if folders.label_suffix and image_folder.samefile(label_folder):
        image_names -= {name for name in label_names if _key(name, folders.label_suffix)}
    images = _by_key(image_folder, image_names, folders.image_suffix, SUFFIXES)
    labels = _by_key(label_folder, label_names, folders.label_suffix, _LABEL_SUFFIXES)
    check_paired(images, labels)
    names = {key: images[key].relative_to(folders.images).as_posix() for key in sorted(images)}
    return images, labels, names


def _by_key(
    folder: Path, names: Iterable[str], suffix: str, endings: tuple[str, ...]
) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for name in sorted(names):
        key = _key(name, suffix)
        if key is not None:
            add_once(found, key, folder / name)
    if not found:
        raise DataError(
            f"{folder} and its subfolders must have files whose names end in {suffix!r} and one of "
            f"{' '.join(endings)}, got none"
        )
    return found


def _key(name: str, suffix: str) -> str | None:
    """Returns the part of a path that image and label share; None without the suffix."""
    path = PurePosixPath(name)
    if not path.stem.endswith(suffix):
        return None
    return path.with_name(path.stem.removesuffix(suffix) or path.stem).as_posix()
