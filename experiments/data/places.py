"""Places365 (reference 50) at 256x256, by tfds: `python -m experiments.data.places --help`.

Preparing needs TensorFlow, once; reading does not.
"""

from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from experiments.data.errors import DataError
from experiments.data.prepared import check_can_prepare, prepared_folder
from experiments.engine.command_line import run_program
from experiments.engine.text import printable

_NAME = "places365_small"
# The same pictures; 2.1.0 has other keys.
_VERSIONS = ("2.1.0", "2.0.0")


def places_folder(data_dir: Path) -> Path:
    """Finds the prepared data set, and sees that all its files are there.

    Args:
        data_dir: the folder that :func:`prepare` was given; it holds `places365_small/2.1.0`.

    Returns:
        The folder to read the data set from.

    Raises:
        DataError: it is not there, unfinished, of another version or format, or lacks a split or
            a file. The message says how to prepare it.
    """
    how = (
        "To prepare it, which fetches 31 GB of data.csail.mit.edu, run once "
        f"`pip install tensorflow` and `python -m experiments.data.places --data-dir {data_dir}`"
    )
    return prepared_folder(data_dir, _NAME, _VERSIONS, how)


def prepare(data_dir: Path, archives: Path | None = None) -> None:
    """Prepares the data set with tfds, in the format that can be read in any order.

    Args:
        data_dir: tfds keeps its data sets in folders below this one, and what it fetches.
        archives: folder of archives that need not be fetched, under the names that they have at
            data.csail.mit.edu, such as `val_256.tar`.

    Raises:
        DataError: TensorFlow is missing, ``archives`` is no folder, or an archive cannot be
            fetched or is damaged.
    """
    if archives is not None and not archives.is_dir():
        raise DataError(f"archives must be a folder, got {archives}")
    check_can_prepare()
    builder = tfds.builder(_NAME, data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=archives)
    try:
        builder.download_and_prepare(download_config=config)
    except (OSError, DownloadError, NonMatchingChecksumError) as error:
        raise DataError(f"the archives of Places365 cannot be had: {error}") from error


def main(data_dir: Path = Path("data"), archives: Path | None = None) -> None:
    """Prepares Places365, which takes hours, 31 GB to fetch and as much again to keep.

    Args:
        data_dir: Folder of the prepared data sets.
        archives: Folder of archives of data.csail.mit.edu that are here already.
    """
    prepare(data_dir, archives)
    print(printable(f"Places365 in {places_folder(data_dir)}"))


if __name__ == "__main__":
    run_program(main)
