"""Finds datasets that tfds prepared, and checks before a run that they are complete."""

import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import tensorflow_datasets as tfds

from experiments.data.errors import DataError
from experiments.engine.files import locked

_SPLITS = ("train", "validation")


def prepared_folder(data_dir: Path, name: str, versions: Sequence[str], how: str) -> Path:
    """Returns the folder of a prepared dataset, after checking that all its files exist.

    Args:
        data_dir: folder of the tfds datasets.
        name: name of the dataset, such as ``imagenet2012``.
        versions: versions that can be used, the preferred one first.
        how: instruction for preparing the dataset, which ends error messages.

    Returns:
        The folder from which to read the dataset, such as ``data_dir/imagenet2012/5.1.0``.

    Raises:
        DataError: the dataset is missing, incomplete, of another version or format, or lacks a
            split or a file.
    """
    try:
        return checked(_version_folder(data_dir, name, versions))
    except DataError as error:
        raise DataError(f"{error}. {how}") from None


def checked(folder: Path, splits: Sequence[str] = _SPLITS) -> Path:
    """Checks that a prepared dataset is complete.

    Args:
        folder: folder with `dataset_info.json`, such as ``data_dir/imagenet2012/5.1.0``.
        splits: splits that the dataset must have.

    Returns:
        ``folder``.

    Raises:
        DataError: the dataset is incomplete, of another format, or lacks a split or a file.
    """
    for name in ("dataset_info.json", "features.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} lacks {name}: its preparation did not end")
    info = open_builder(folder).info
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{folder} must be prepared as array_record, which can be read in any order, got "
            f"{info.file_format.value}"
        )
    for split in splits:
        if split not in info.splits:
            raise DataError(
                f"{folder} must have the split {split!r}, got {sorted(info.splits)}: was its "
                "archive there when it was prepared?"
            )
        missing = [path.name for path in info.splits[split].filepaths if not path.exists()]
        if missing:
            raise DataError(
                f"{folder} lacks {len(missing)} of the {len(info.splits[split].filepaths)} files "
                f"of the split {split!r}, the first is {missing[0]}"
            )
    return folder


def open_builder(folder: Path) -> tfds.core.DatasetBuilder:
    """Opens the information that tfds stores beside the records of a prepared dataset.

    Args:
        folder: folder with `dataset_info.json`, such as ``data_dir/imagenet2012/5.1.0``.

    Raises:
        DataError: tfds cannot open it.
    """
    try:
        builder = tfds.builder_from_directory(folder)
        _ = builder.info.metadata  # tfds reads them at the first access
    except ImportError:
        raise
    except Exception as error:
        # A damaged file makes tfds raise almost any error.
        message = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"tfds cannot open {folder}: {message}") from error
    return builder


def prepare_once(prepared: Path, write: Callable[[], object]) -> Path:
    """Prepares a dataset, unless it exists.

    A preparation that was killed leaves nothing that looks complete; the next one deletes the rest
    and starts again. If two processes prepare the dataset, one waits for the other.

    Args:
        prepared: folder of the complete dataset, such as ``data_dir/coco_instances/2017/1.0.0``.
        write: function that writes the dataset, called if it does not exist. It must write to
            folders beside ``prepared`` whose names start with ``incomplete.``, and rename the
            complete folder.

    Returns:
        ``prepared``.

    Raises:
        FolderError: the folder cannot be written to.
    """
    if prepared.is_dir():  # it may be read-only
        return prepared
    with locked(prepared.parent):
        for left in prepared.parent.glob("incomplete.*"):
            shutil.rmtree(left)
        if not prepared.is_dir():  # another process may have written it
            write()
    return prepared


def check_can_prepare() -> None:
    """Raises ``DataError`` if TensorFlow is missing, which tfds needs to read archives."""
    if find_spec("tensorflow") is None:
        raise DataError("preparing needs TensorFlow, and reading does not: pip install tensorflow")


def _version_folder(data_dir: Path, name: str, versions: Sequence[str]) -> Path:
    dataset = data_dir / name
    if not dataset.is_dir():
        raise DataError(f"data_dir must hold {name}, got {data_dir}")
    found = sorted(path.name for path in dataset.iterdir() if path.is_dir())
    version = next((version for version in versions if version in found), None)
    if version is None:
        unfinished = any(name.startswith("incomplete.") for name in found)
        raise DataError(
            f"{dataset} must hold version {' or '.join(versions)}, got {found or 'nothing'}"
            f"{' (its preparation did not end)' if unfinished else ''}"
        )
    return dataset / version
