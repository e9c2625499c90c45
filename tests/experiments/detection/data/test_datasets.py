import dataclasses
import re

import numpy as np
import pytest

from experiments.data.composed.scenes import CATEGORIES
from experiments.data.errors import DataError
from experiments.detection.data.config import DataConfig
from experiments.detection.data.datasets import open_data
from experiments.detection.data.record_index import index_records
from experiments.detection.task import num_classes
from experiments.engine.folders import DataFolders
from tests.experiments.detection.tiny import TINY


@pytest.fixture(scope="module")
def data(scenes_dir, cutouts_cache):
    return open_data(TINY.data, DataFolders(scenes_dir, cutouts_cache))


def test_scenes_are_composed_only_if_they_are_missing(data, scenes_dir, tmp_path):
    assert (len(data.train), len(data.validation), data.test) == (8, 6, None)
    assert data.source("train") is data.train
    assert data.source("validation") is data.validation
    assert data.categories == CATEGORIES
    assert num_classes(TINY.data.source) == len(data.categories)
    again = open_data(TINY.data, DataFolders(scenes_dir, tmp_path))  # an empty cache
    assert again.folder == data.folder
    assert again.train[3]["image"] == data.train[3]["image"]


def test_the_index_of_a_split_is_cached_in_the_folder_of_the_dataset(data, scenes_dir, tmp_path):
    for split in ("train", "validation"):
        right = index_records(data.source(split))
        for _ in range(2):
            found = data.index(split)
            for field in dataclasses.fields(right):
                np.testing.assert_array_equal(
                    getattr(found, field.name), getattr(right, field.name)
                )
    assert not np.isin(data.index("train").image_id, data.index("validation").image_id).any()


def test_a_missing_split_is_refused(data):
    for look in (data.source, data.index):
        with pytest.raises(DataError, match=r"test.* none"):
            look("test")


@pytest.mark.parametrize("source", ["coco", "coco_boxes"])
def test_missing_coco_is_reported_with_the_command_that_prepares_it(source, tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        open_data(DataConfig(source), DataFolders(tmp_path))


def test_scenes_without_cutouts_name_the_command(tmp_path):
    with pytest.raises(DataError, match=r"experiments\.data\.composed\.debian --cutouts"):
        open_data(TINY.data, DataFolders(tmp_path / "data", tmp_path))
