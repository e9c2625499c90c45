"""Places365 (reference 50) at 256x256, by tfds: `python -m experiments.data.places --help`.

Preparing it once needs TensorFlow; reading it does not.
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
# Both versions have the same pictures; 2.1.0 has other keys.
_VERSIONS = ("2.1.0", "2.0.0")


def places_folder(data_dir: Path) -> Path:
    """Returns the folder of the prepared dataset, after checking that all its files exist.

    Args:
        data_dir: folder that was given to :func:`prepare`; it contains `places365_small/2.1.0`.

    Returns:
        The folder from which to read the dataset.

    Raises:
        DataError: the dataset is missing, incomplete, of another version or format, or lacks a
            split or a file. The message tells how to prepare it.
    """
    how = (
        "To prepare it, which fetches 31 GB of data.csail.mit.edu, run once "
        f"`pip install tensorflow` and `python -m experiments.data.places --data-dir {data_dir}`"
    )
    return prepared_folder(data_dir, _NAME, _VERSIONS, how)


def prepare(data_dir: Path, archives: Path | None = None) -> None:
    """Prepares the dataset with tfds, in a format that can be read in any order.

    Args:
        data_dir: folder of the tfds datasets and of their downloads.
        archives: folder of archives that need not be downloaded, under their names at
            data.csail.mit.edu, such as `val_256.tar`.

    Raises:
        DataError: TensorFlow is missing, ``archives`` is not a folder, or an archive cannot be
            downloaded or is damaged.
    """
    if archives is not None and not archives.is_dir():
        raise DataError(f"archives must be a folder, got {archives}")
    check_can_prepare()
    builder = tfds.builder(_NAME, data_dir=data_dir, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=archives)
    try:
        builder.download_and_prepare(download_config=config)
    except (OSError, DownloadError, NonMatchingChecksumError) as error:
        raise DataError(f"the archives of Places365 are not available: {error}") from error


def main(data_dir: Path = Path("data"), archives: Path | None = None) -> None:
    """Prepares Places365, which takes hours, a download of 31 GB, and as much space again.

    Args:
        data_dir: Folder of the prepared datasets.
        archives: Folder of archives of data.csail.mit.edu that were downloaded before.
    """
    prepare(data_dir, archives)
    print(printable(f"Places365 in {places_folder(data_dir)}"))


if __name__ == "__main__":
    run_program(main)
