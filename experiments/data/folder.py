"""A folder of images as a source of records, split into training and validation."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.data.errors import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".gif", ".bmp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k"),
)

_VALIDATION_SHARE = 0.1


class ImageFiles:
    """Random access to image files, which stay on disk until they are decoded.

    Args:
        folder: folder of the images.
        names: paths of the images, relative to ``folder``.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Path]:
        """Returns a record with ``image``, the path of the file."""
        return {"image": self._folder / self.names[index]}

    def __repr__(self) -> str:
        return f"{len(self.names)} images of {self._folder}"


def open_images(folder: Path) -> tuple[ImageFiles, ImageFiles]:
    """Finds the images of a folder and its subfolders, except hidden files and linked subfolders.

    One image in ten, and at least one, is for validation. The split depends only on the paths
    within the folder, so it is the same on all machines.

    Args:
        folder: folder of files; files with one of :data:`SUFFIXES`, in upper or lower case, are
            used.

    Returns:
        The images for training and for validation, each ordered by name.

    Raises:
        DataError: the folder does not exist, has fewer than two images, or a subfolder cannot be
            read.
    """
    if not folder.is_dir():
        raise DataError(f"images must be a folder, got {folder}")
    names = sorted(file_names(folder, "images"))
    if len(names) < 2:
        raise DataError(
            f"images must hold at least two images, for training and validation, got {len(names)} "
            f"in {folder} and its subfolders; a name ends in one of {' '.join(SUFFIXES)}"
        )
    train, validation = split_by_name(names)
    return ImageFiles(folder, train), ImageFiles(folder, validation)


def file_names(folder: Path, what: str, suffixes: Sequence[str] = SUFFIXES) -> Iterator[str]:
    """Yields the files of a folder and its subfolders, except hidden files and linked subfolders.

    Args:
        folder: folder of files.
        what: name of the folder at the start of error messages.
        suffixes: ends of the names of files that are used, in lower case.

    Yields:
        The path of each file, relative to ``folder``, with "/" between folders.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{what} must be readable, with all subfolders: {error}") from error

    for inside, folders, files in folder.walk(on_error=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in suffixes:
                yield (inside / name).relative_to(folder).as_posix()


def split_by_name(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits files into training and validation by digests of their names.

    Args:
        names: paths of at least two files.

    Returns:
        The files for training, and those for validation, one in ten and at least one; both sorted.
    """
    ranked = sorted(names, key=_rank)
    share = sum(_rank(name) < _VALIDATION_SHARE for name in names)
    count = min(max(share, 1), len(names) - 1)
    return sorted(ranked[count:]), sorted(ranked[:count])


def images_digest(folder: Path) -> str:
    """Returns a digest of the names and sizes of a folder's images, to notice changes.

    Raises:
        DataError: as :func:`open_images`.
    """
    train, validation = open_images(folder)
    names = sorted(train.names + validation.names)
    listed = [(name, (folder / name).stat().st_size) for name in names]
    return hashlib.sha256(repr(listed).encode(errors="surrogateescape")).hexdigest()[:16]


def _rank(name: str) -> float:
    """Returns a pseudo-random number in [0, 1) for a name."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return int.from_bytes(digest[:6]) / 2**48
