"""Uses fake cutouts, ellipses with one colour for each class, and the PyPI photographs."""

import itertools

import numpy as np
import pytest
from PIL import Image

from experiments.data.coco import coco_folder, open_coco
from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.composed.label_scenes import label_of, prepare_label_scenes
from experiments.data.composed.scenes import prepare_scenes
from experiments.data.composed.scenes_composition import Scene
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.errors import DataError
from experiments.data.label_maps import decode_label, open_label_maps
from tests.experiments.data.composed.test_scenes import CONFIG, runs_to_mask


@pytest.fixture(scope="module")
def data_dir(cutouts_cache, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    prepare_label_scenes(data_dir, cutouts_cache, CONFIG)
    return data_dir


@pytest.fixture(scope="module")
def data(data_dir, tmp_path_factory):
    # An empty cache: a dataset that was built does not need it.
    return open_label_maps(prepare_label_scenes(data_dir, tmp_path_factory.mktemp("no"), CONFIG))


def records(source):
    return [source[index] for index in range(len(source))]


def test_images_and_labels_are_those_of_the_scenes_for_detection(data, data_dir, cutouts_cache):
    prepare_scenes(data_dir, cutouts_cache, CONFIG)
    detection = open_coco(coco_folder(data_dir, CONFIG.name))
    checked = 0
    for split in ("train", "validation"):
        others = {record["file_name"]: record for record in records(getattr(detection, split))}
        assert len(others) == len(data.source(split))
        for record in records(data.source(split)):
            other = others[record["file_name"]]
            assert record["image"] == other["image"]
            expected = np.zeros((record["height"], record["width"]), np.uint8)
            objects = other["objects"]
            for label, counts in zip(objects["label"], objects["segmentation"], strict=True):
                expected[runs_to_mask(counts, *expected.shape)] = 1 + label
                checked += 1
            np.testing.assert_array_equal(decode_label(record), expected)
    assert checked > 30


def test_records_equal_a_folder_in_ade20ks_layout(data, data_dir):
    folder = data_dir / "label_scenes" / CONFIG.name
    for split, part in (("train", "training"), ("validation", "validation")):
        paths = sorted((folder / "annotations" / part).iterdir())
        assert len(paths) == len(data.source(split))
        for record, path in zip(records(data.source(split)), paths, strict=True):
            assert record["file_name"] == f"{path.stem}.jpg"
            assert record["scene"] == ""
            with Image.open(path) as image:
                assert image.mode == "L"
                values = np.asarray(image)
            assert values.min() >= 1
            assert values.max() <= 13
            np.testing.assert_array_equal(decode_label(record), values - 1)


def test_all_pixels_have_a_class(data):
    assert data.class_names == ("other", *CLASSES)
    assert data.unlabelled_images == {"train": 0, "validation": 0}
    seen = set()
    for record in itertools.chain(records(data.train), records(data.validation)):
        seen |= set(np.unique(decode_label(record)).tolist())
    assert seen == set(range(13))


def test_the_label_of_a_scene_has_the_class_of_the_object_at_each_pixel():
    masks = np.zeros((2, 3, 4), bool)
    masks[0, 0, :2] = True
    masks[1, 1:, 3] = True
    label = label_of(Scene(Image.new("RGB", (4, 3)), (11, 0), masks))
    np.testing.assert_array_equal(label, [[13, 13, 1, 1], [1, 1, 1, 2], [1, 1, 1, 2]])


def test_a_killed_build_starts_again(cutouts_cache, data, tmp_path):
    unfinished = tmp_path / "label_scenes" / f".unfinished-{CONFIG.name}" / "images" / "training"
    unfinished.mkdir(parents=True)
    (unfinished / "left.jpg").touch()
    again = open_label_maps(prepare_label_scenes(tmp_path, cutouts_cache, CONFIG))
    assert records(again.train) == records(data.train)
    assert records(again.validation) == records(data.validation)


def test_an_empty_cache_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"data\.composed\.debian --cutouts --cache"):
        prepare_label_scenes(tmp_path / "data", tmp_path, ScenesConfig())
