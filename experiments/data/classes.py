"""The number of classes of each dataset, and the value of pixels without a class."""

from pathlib import Path

from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.errors import DataError

# Value of pixels without a class in label maps, which are of 8 bits.
UNLABELLED = 255

# By the name of the dataset in configs.
_CLASSES = {
    "imagenet2012": 1000,
    "digits": 10,
    "coco": 80,
    "coco_boxes": 80,
    "cutouts": len(CLASSES),
    "scenes": len(CLASSES),
    "ade20k": 150,
    "label_scenes": len(CLASSES) + 1,  # and "other"
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
