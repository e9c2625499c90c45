"""ADE20K with 150 classes (references 51, 52): `python -m experiments.data.ade20k --help`.

The folder of the scene parsing challenge of 2016 is converted once to a tfds dataset. Neither the
conversion nor reading the dataset needs TensorFlow.
"""

from pathlib import Path
from typing import Annotated

import tyro

from experiments.data import label_maps_tfds
from experiments.data.ade_layout import AdeLayout, list_ade_files
from experiments.data.classes import num_classes
from experiments.data.label_maps import VERSIONS
from experiments.data.prepared import prepared_folder
from experiments.engine.command_line import run_program
from experiments.engine.text import printable

NAME = "ade20k"
OFFICIAL = AdeLayout(
    "objectInfo150.txt", num_classes("ade20k"), {"train": 20_210, "validation": 2_000}
)


def ade20k_folder(data_dir: Path) -> Path:
    """Returns the folder of the prepared dataset, after checking that all its files exist.

    Args:
        data_dir: folder of the tfds datasets, which contains `label_maps/ade20k/1.0.0`.

    Returns:
        The folder for :func:`experiments.data.label_maps.open_label_maps`.

    Raises:
        DataError: the dataset is missing, incomplete, of another version or format, or lacks a
            split or a file. The message says how to prepare the dataset.
    """
    how = (
        "To prepare it, unpack ADEChallengeData2016.zip of http://sceneparsing.csail.mit.edu, and "
        f"run `python -m experiments.data.ade20k ADEChallengeData2016 --data-dir {data_dir}` once"
    )
    return prepared_folder(data_dir, f"{label_maps_tfds.NAME}/{NAME}", VERSIONS, how)


def prepare_ade20k(folder: Path, data_dir: Path, layout: AdeLayout = OFFICIAL) -> Path:
    """Prepares the dataset, unless it exists, and returns the folder from which to read it.

    Args:
        folder: folder ADEChallengeData2016.
        data_dir: folder of the tfds datasets.
        layout: name of the class list, and numbers of classes and images in ``folder``.

    Raises:
        DataError: a file is missing, superfluous or invalid, or another release of ADE20K was
            given; the message names the file.
        FolderError: ``data_dir`` cannot be written to.
    """
    return label_maps_tfds.prepare(NAME, data_dir, lambda: list_ade_files(folder, layout))


def main(folder: Annotated[Path, tyro.conf.Positional], data_dir: Path = Path("data")) -> None:
    """Prepares ADE20K, which needs about 1 GB in addition to the folder.

    Args:
        folder: Folder ADEChallengeData2016, unpacked, with images/, annotations/ and
            objectInfo150.txt. If it has sceneCategories.txt, the scenes are stored as well.
        data_dir: Folder of the prepared datasets.
    """
    print(printable(f"ADE20K in {prepare_ade20k(folder, data_dir)}"))


if __name__ == "__main__":
    run_program(main)
