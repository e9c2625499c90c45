"""COCO (reference 25) with boxes and masks: `python -m experiments.data.coco --help`.

The official folder is converted once to a tfds dataset; neither this nor reading it needs
TensorFlow. For training on boxes only, tfds' own `coco/2017` can be used too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tensorflow_datasets as tfds
import tyro

from experiments.data import coco_tfds
from experiments.data.coco_annotations import Category, parse_categories
from experiments.data.coco_sources import BoxRecords, InstanceRecords
from experiments.data.errors import DataError
from experiments.data.prepared import checked, open_builder, prepared_folder
from experiments.data.records import Source
from experiments.engine.command_line import run_program
from experiments.engine.text import printable, shown

_VERSIONS = ("1.0.0",)
_TFDS_VERSIONS = ("1.1.0",)

# Of the 91 categories, eleven were never annotated.
OFFICIAL_IDS = tuple(n for n in range(1, 91) if n not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})


@dataclass(frozen=True)
class CocoData:
    """A dataset in the format of COCO.

    Attributes:
        train: records of :class:`experiments.data.coco_sources.InstanceRecords`.
        validation: records of the same format.
        test: records of the same format, without objects; None if the test images were missing when
            the dataset was prepared.
        categories: categories, ordered by id; the label of an object is the index of its category.
        has_masks: whether objects have segmentations.
    """

    train: Source
    validation: Source
    test: Source | None
    categories: tuple[Category, ...]
    has_masks: bool


def coco_folder(data_dir: Path, name: str = "2017") -> Path:
    """Returns the folder of the prepared dataset, after checking that all its files exist.

    Args:
        data_dir: folder of the tfds datasets, which contains `coco_instances/<name>/1.0.0`.
        name: name of the config: `2017`, or the name of a config of scenes.

    Returns:
        The folder for :func:`open_coco`.

    Raises:
        DataError: the dataset is missing, incomplete, of another version or format, or lacks a
            split or a file. The message tells how to prepare it.
    """
    how = (
        "To prepare it, unpack the images and annotations of https://cocodataset.org into a folder "
        f"COCO, and run once `python -m experiments.data.coco COCO --data-dir {data_dir}`"
    )
    return prepared_folder(data_dir, f"{coco_tfds.NAME}/{name}", _VERSIONS, how)


def coco_boxes_folder(data_dir: Path, name: str = "2017") -> Path:
    """Returns the folder of COCO as tfds prepares it, without masks; see :func:`coco_folder`.

    Args:
        data_dir: folder of the tfds datasets, which contains `coco/<name>/1.1.0`.
        name: name of the config: `2017`.

    Returns:
        The folder for :func:`open_coco`.

    Raises:
        DataError: the dataset is missing or invalid.
    """
    how = (
        "To prepare it, run once `pip install tensorflow` and `tfds build coco/"
        f"{name} --file_format=array_record --data_dir={data_dir}`; or prepare it with masks by "
        "`python -m experiments.data.coco`, which needs no TensorFlow"
    )
    return prepared_folder(data_dir, f"coco/{name}", _TFDS_VERSIONS, how)


def open_coco(folder: Path) -> CocoData:
    """Opens a prepared dataset.

    Args:
        folder: folder returned by :func:`coco_folder` or :func:`coco_boxes_folder`.

    Returns:
        The dataset, whose sources can be pickled and read in any order.

    Raises:
        DataError: a file is missing or damaged, or the dataset is not in the format of COCO.
    """
    checked(folder)
    builder = open_builder(folder)
    if "test" in builder.info.splits:
        checked(folder, ("test",))
    features = builder.info.features
    if "image/id" in features and "objects" in features:
        return _opened(builder, BoxRecords, _official_categories(folder, features))
    if builder.name != coco_tfds.NAME:
        raise DataError(
            f"{folder} must hold {coco_tfds.NAME} or tfds' coco, got {builder.name} of "
            f"{sorted(features)}"
        )
    return _opened(builder, InstanceRecords, _checked_categories(builder, folder))


def _opened(
    builder: tfds.core.DatasetBuilder,
    records: type[InstanceRecords] | type[BoxRecords],
    categories: tuple[Category, ...],
) -> CocoData:
    def source(split: str) -> Source:
        decoders: dict[str, Any] = {"image": tfds.decode.SkipDecoding()}
        return records(builder.as_data_source(split, decoders=decoders))

    has_masks = records is InstanceRecords
    return CocoData(
        source("train"),
        source("validation"),
        # tfds stores all test images; the server evaluates half of them.
        source("test") if has_masks and "test" in builder.info.splits else None,
        categories,
        has_masks,
    )


def _checked_categories(builder: tfds.core.DatasetBuilder, folder: Path) -> tuple[Category, ...]:
    """Returns the categories in the metadata, after comparing its counts of images with the splits.

    Raises:
        DataError: the metadata are damaged, or a split has another number of images.
    """
    metadata = builder.info.metadata
    try:
        images = {split: count[0] for split, count in metadata["counts"].items()}
        categories = [
            {"id": category[0], "name": category[1]} for category in metadata["categories"]
        ]
    except (AttributeError, LookupError, TypeError) as error:
        raise DataError(f"the metadata of {folder} are damaged: {error!r}") from error
    found = {name: split.num_examples for name, split in builder.info.splits.items()}
    if found != images:
        raise DataError(f"{folder} must have the images {shown(images)} by split, got {found}")
    return parse_categories(folder, categories)


def _official_categories(folder: Path, features: Any) -> tuple[Category, ...]:
    # tfds keeps the names, in the order of the ids, but not the ids.
    names = features["objects"]["label"].names
    if len(names) != len(OFFICIAL_IDS):
        raise DataError(f"{folder} must have the {len(OFFICIAL_IDS)} categories, got {len(names)}")
    return tuple(map(Category, OFFICIAL_IDS, names))


def main(folder: Annotated[Path, tyro.conf.Positional], data_dir: Path = Path("data")) -> None:
    """Prepares COCO 2017, which needs about 20 GB in addition to the folder.

    Args:
        folder: Folder with annotations/instances_train2017.json,
            annotations/instances_val2017.json, train2017/ and val2017/; for the test server also
            annotations/image_info_test-dev2017.json and test2017/.
        data_dir: Folder of the prepared datasets.
    """
    print(printable(f"COCO in {coco_tfds.prepare(folder, data_dir, coco_tfds.COCO_2017)}"))


if __name__ == "__main__":
    run_program(main)
