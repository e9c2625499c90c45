"""The datasets of the detection task."""

import dataclasses
from pathlib import Path

from experiments.data.classes import check_classes
from experiments.data.coco import coco_boxes_folder, coco_folder, open_coco
from experiments.data.coco_annotations import Category
from experiments.data.composed.scenes import prepare_scenes
from experiments.data.errors import DataError
from experiments.data.records import Source
from experiments.detection.data.config import DataConfig, Split
from experiments.detection.data.record_index import RecordIndex, cached_index
from experiments.engine.folders import DataFolders


@dataclasses.dataclass(frozen=True)
class DetectionData:
    """A dataset on disk.

    Attributes:
        folder: folder of the dataset.
        train: training records, in the format of :mod:`experiments.data.coco`.
        validation: validation records, in the same format.
        test: test records without objects, in the same format; None if the dataset has none.
        categories: categories, indexed by label.
    """

    folder: Path
    train: Source
    validation: Source
    test: Source | None
    categories: tuple[Category, ...]

    def source(self, split: Split) -> Source:
        """The records of a split.

        Raises:
            DataError: the dataset has no such split.
        """
        source: Source | None = getattr(self, split)
        if source is None:
            raise DataError(
                f"{self.folder} must have images of {split}, but it was prepared with none"
            )
        return source

    def index(self, split: Split) -> RecordIndex:
        """The index of a split's records; all processes must call this together.

        Raises:
            DataError: the dataset has no such split.
        """
        return cached_index(self.source(split), self.folder, split)


def open_data(config: DataConfig, folders: DataFolders) -> DetectionData:
    """Opens a dataset, and composes the scenes if necessary.

    Args:
        config: config of the data.
        folders: folders of the datasets and of the files from which scenes are composed.

    Raises:
        DataError: COCO, or the material of the scenes, is missing or damaged; the message says how
            to prepare it. Or the dataset has an unexpected number of categories.
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
