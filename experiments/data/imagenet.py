"""ImageNet (ILSVRC 2012) as tfds prepares it: `python -m experiments.data.imagenet --help`.

Preparing needs TensorFlow and the two archives of image-net.org, once; reading needs neither.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import tensorflow_datasets as tfds
import tyro

# The same pictures and labels; 5.1.0 has a test split besides.
_VERSIONS = ("5.1.0", "5.0.0")
_SPLITS = ("train", "validation")
_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


class DataError(ValueError):
    """A data set is missing, unfinished, or not as it must be to be read."""


def imagenet_folder(data_dir: Path) -> Path:
    """Finds the prepared data set, and sees that all its files are there.

    Args:
        data_dir: the folder that :func:`prepare` was given; it holds `imagenet2012/5.1.0`.

    Returns:
        The folder to read the data set from.

    Raises:
        DataError: it is not there, unfinished, of another version or format, or lacks a split or
            a file. The message says how to prepare it.
    """
    dataset = data_dir / "imagenet2012"
    if not dataset.is_dir():
        raise DataError(f"data_dir must hold imagenet2012, got {data_dir}{_how(data_dir)}")
    found = sorted(path.name for path in dataset.iterdir() if path.is_dir())
    version = next((version for version in _VERSIONS if version in found), None)
    if version is None:
        unfinished = any(name.startswith("incomplete.") for name in found)
        raise DataError(
            f"{dataset} must hold version {' or '.join(_VERSIONS)}, got {found or 'nothing'}"
            f"{' (its preparation did not end)' if unfinished else ''}{_how(data_dir)}"
        )
    _check(dataset / version, data_dir)
    return dataset / version


def _check(folder: Path, data_dir: Path) -> None:
    for name in ("dataset_info.json", "features.json"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} lacks {name}: its preparation did not end{_how(data_dir)}")
    info = tfds.builder_from_directory(folder).info
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
        raise DataError(
            f"{folder} must be prepared as array_record, which can be read in any order, got "
            f"{info.file_format.value}{_how(data_dir)}"
        )
    for split in _SPLITS:
        if split not in info.splits:
            raise DataError(
                f"{folder} must have the split {split!r}, got {sorted(info.splits)}: was its "
                f"archive in manual_dir?{_how(data_dir)}"
            )
        missing = [path.name for path in info.splits[split].filepaths if not path.exists()]
        if missing:
            raise DataError(
                f"{folder} lacks {len(missing)} of the {len(info.splits[split].filepaths)} files "
                f"of the split {split!r}, the first is {missing[0]}{_how(data_dir)}"
            )


def _how(data_dir: Path) -> str:
    return (
        f". To prepare it, put {' and '.join(_ARCHIVES)}, which image-net.org gives to registered "
        "users, into a folder TARS, and run once `pip install tensorflow` and "
        f"`python -m experiments.data.imagenet --archives TARS --data-dir {data_dir}`"
    )


def prepare(archives: Path, data_dir: Path) -> None:
    """Prepares the data set with tfds, in the format that can be read in any order.

    `tfds build` would do, but needs Apache Beam besides TensorFlow.

    Args:
        archives: folder of the two archives.
        data_dir: tfds keeps its data sets in folders below this one.

    Raises:
        DataError: an archive is missing, or TensorFlow.
    """
    # tfds would leave out a split without a word.
    if missing := [name for name in _ARCHIVES if not (archives / name).is_file()]:
        raise DataError(f"archives must hold {' and '.join(_ARCHIVES)}, {archives} lacks {missing}")
    if find_spec("tensorflow") is None:
        raise DataError("preparing needs TensorFlow, and reading does not: pip install tensorflow")
    builder = tfds.builder("imagenet2012", data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=archives))


def main(archives: Path, data_dir: Path = Path("data")) -> None:
    """Prepares ImageNet, which takes hours and 150 GB besides the archives.

    Args:
        archives: Folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.
        data_dir: Folder of the prepared data sets.
    """
    try:
        prepare(archives, data_dir)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"ImageNet in {imagenet_folder(data_dir)}")


if __name__ == "__main__":
    tyro.cli(main)
