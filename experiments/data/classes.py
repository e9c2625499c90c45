"""The number of classes of each dataset."""

from pathlib import Path

from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.errors import DataError

# By the name of the dataset in configs.
_CLASSES = {
    "imagenet2012": 1000,
    "digits": 10,
    "coco": 80,
    "coco_boxes": 80,
    "cutouts": len(CLASSES),
    "scenes": len(CLASSES),
}


def num_classes(source: str) -> int:
    """Returns the number of classes of a dataset, without opening it.

    Args:
        source: name of the dataset in a config.
    """
    return _CLASSES[source]


def check_classes(source: str, names: tuple[str, ...], folder: Path) -> None:
    """Checks that a dataset on disk has as many classes as a network is built for.

    Args:
        source: name of the dataset in a config.
        names: names of the classes in the dataset.
        folder: folder of the dataset.

    Raises:
        DataError: the numbers of classes differ.
    """
    expected = num_classes(source)
    if len(names) != expected:
        raise DataError(f"{folder} must have the {expected} classes of {source}, got {len(names)}")
