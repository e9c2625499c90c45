"""How many classes each data set has."""

from pathlib import Path

from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.errors import DataError

# By the name that configs use.
_CLASSES = {
    "imagenet2012": 1000,
    "digits": 10,
    "coco": 80,
    "coco_boxes": 80,
    "cutouts": len(CLASSES),
    "scenes": len(CLASSES),
}


def num_classes(source: str) -> int:
    """The number of classes of a data set, before it is opened.

    Args:
        source: the name of the data set in a config.
    """
    return _CLASSES[source]


def check_classes(source: str, names: tuple[str, ...], folder: Path) -> None:
    """Checks that a data set on disk has the classes that a network is built for.

    Args:
        source: the name of the data set in a config.
        names: of the classes that were found.
        folder: in which they were found.

    Raises:
        DataError: their number is another.
    """
    expected = num_classes(source)
    if len(names) != expected:
        raise DataError(f"{folder} must have the {expected} classes of {source}, got {len(names)}")
