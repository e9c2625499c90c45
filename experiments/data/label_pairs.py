"""Checks that each image of a dataset has one label, and each label one image."""

from collections.abc import Mapping
from pathlib import Path

from experiments.data.errors import DataError


def add_once(found: dict[str, Path], key: str, path: Path) -> None:
    """Adds a file to files by key.

    Args:
        found: files by key; ``path`` is added to them.
        key: part of the path that an image and its label have in common.
        path: path of the file.

    Raises:
        DataError: another file has the same key.
    """
    other = found.setdefault(key, path)
    if other != path:
        raise DataError(f"{path} and {other} must not have the same name, except for its end")


def check_paired(images: Mapping[str, Path], labels: Mapping[str, Path]) -> None:
    """Checks that images and labels have the same keys.

    Args:
        images: image files by key, at least one.
        labels: label files by key, at least one.

    Raises:
        DataError: an image has no label, or a label no image; the message has the number of such
            files and the first of them.
    """
    for kind, files, other, others in (
        ("image", images, "label", labels),
        ("label", labels, "image", images),
    ):
        if single := sorted(set(files) - set(others)):
            raise DataError(
                f"each {kind} must have one {other}, but {len(single)} of {len(files)} "
                f"{kind}s have none, the first is {files[single[0]]}"
            )
