"""ImageNet (ILSVRC 2012) as tfds prepares it: `python -m experiments.data.imagenet --help`.

Preparing it once needs TensorFlow and the two archives of image-net.org; reading it needs neither.
"""

from pathlib import Path

import tensorflow_datasets as tfds

from experiments.data.errors import DataError
from experiments.data.prepared import check_can_prepare, prepared_folder
from experiments.engine.command_line import run_program
from experiments.engine.text import printable

# Both versions have the same pictures and labels; 5.1.0 also has a test split.
_VERSIONS = ("5.1.0", "5.0.0")
_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")


def imagenet_folder(data_dir: Path) -> Path:
    """Returns the folder of the prepared dataset, after checking that all its files exist.

    Args:
        data_dir: folder that was given to :func:`prepare`; it contains `imagenet2012/5.1.0`.

    Returns:
        The folder from which to read the dataset.

    Raises:
        DataError: the dataset is missing, incomplete, of another version or format, or lacks a
            split or a file. The message tells how to prepare it.
    """
    how = (
        f"To prepare it, put {' and '.join(_ARCHIVES)}, which image-net.org gives to registered "
        "users, into a folder TARS, and run once `pip install tensorflow` and "
        f"`python -m experiments.data.imagenet --archives TARS --data-dir {data_dir}`"
    )
    return prepared_folder(data_dir, "imagenet2012", _VERSIONS, how)


def prepare(archives: Path, data_dir: Path) -> None:
    """Prepares the dataset with tfds, in a format that can be read in any order.

    `tfds build` would also do, but needs Apache Beam in addition to TensorFlow.

    Args:
        archives: folder of the two archives.
        data_dir: folder of the tfds datasets.

    Raises:
        DataError: an archive or TensorFlow is missing.
    """
    # tfds would silently leave out a split.
    if missing := [name for name in _ARCHIVES if not (archives / name).is_file()]:
        raise DataError(f"archives must hold {' and '.join(_ARCHIVES)}, {archives} lacks {missing}")
    check_can_prepare()
    builder = tfds.builder("imagenet2012", data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=archives))


def main(archives: Path, data_dir: Path = Path("data")) -> None:
    """Prepares ImageNet, which takes hours, and needs 150 GB in addition to the archives.

    Args:
        archives: Folder that contains ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar.
        data_dir: Folder of the prepared datasets.
    """
    prepare(archives, data_dir)
    print(printable(f"ImageNet in {imagenet_folder(data_dir)}"))


if __name__ == "__main__":
    run_program(main)
