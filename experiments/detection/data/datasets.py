"""The data sets of the detection task."""

import dataclasses
from pathlib import Path

from experiments.data.classes import check_classes
from experiments.data.coco import coco_boxes_folder, coco_folder, open_coco
from experiments.data.coco_annotations import Category
from experiments.data.composed.scenes import prepare_scenes
from experiments.data.errors import DataError
from experiments.data.records import Source
from experiments.detection.data.config import DataConfig, Split
from experiments.detection.data.record_index import RecordIndex, kept_index
from experiments.engine.folders import DataFolders


@dataclasses.dataclass(frozen=True)
class DetectionData:
    """A data set on disk.

    Attributes:
        folder: of the data set.
        train: records as :mod:`experiments.data.coco` gives them.
        validation: records of the same form.
        test: records of the same form, without objects; None where there are none.
        categories: by label.
    """

    folder: Path
    train: Source
    validation: Source
    test: Source | None
    categories: tuple[Category, ...]

    def source(self, split: Split) -> Source:
        """The records of a split.

        Raises:
            DataError: the data set has no such split.
        """
        source: Source | None = getattr(self, split)
        if source is None:
            raise DataError(f"{self.folder} must have images of {split}, got none when prepared")
        return source

    def index(self, split: Split) -> RecordIndex:
        """What is known of a split's records; each process must ask for it.

        Raises:
            DataError: the data set has no such split.
        """
        return kept_index(self.source(split), self.folder, split)


def open_data(config: DataConfig, folders: DataFolders) -> DetectionData:
    """Opens a data set, and builds scenes if need be.

    Args:
        config: of the run.
        folders: where data sets lie, and the files that scenes are made of.

    Raises:
        DataError: COCO, or what scenes are composed of, is not there or not as it must be; the
            message says how to prepare it. Or the data set has another number of categories.
    """
    match config.source:
        case "coco":
            folder = coco_folder(folders.data_dir)
        case "coco_boxes":
            folder = coco_boxes_folder(folders.data_dir)
        case "scenes":
            folder = prepare_scenes(folders.data_dir, folders.cache, config.scenes)
    data = open_coco(folder)
    names = tuple(category.name for category in data.categories)
    check_classes(config.source, names, folder)
    return DetectionData(folder, data.train, data.validation, data.test, data.categories)
