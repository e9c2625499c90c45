"""Uses fake cutouts, ellipses with one colour for each class, and the PyPI photographs."""

import dataclasses
import io
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from experiments.data.coco import coco_folder, open_coco
from experiments.data.coco_masks import decompressed
from experiments.data.composed.cutouts_manifest import CLASSES
from experiments.data.composed.scenes import (
    CATEGORIES,
    annotations_of,
    prepare_scenes,
)
from experiments.data.composed.scenes_composition import Scene
from experiments.data.composed.scenes_config import ScenesConfig
from experiments.data.composed.scenes_writing import scene
from experiments.data.errors import DataError
from experiments.engine.config import ConfigError
from tests.experiments.data.composed.fake_cutouts import write_fake_cutouts

CONFIG = ScenesConfig(
    photographs="pypi",
    longer_side=96,
    training_images=24,
    validation_images=6,
    smallest=8,
    largest=60,
    max_objects=5,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    write_fake_cutouts(cache)
    return cache


@pytest.fixture(scope="module")
def data_dir(cache, tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    prepare_scenes(data_dir, cache, CONFIG)
    return data_dir


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def runs_to_mask(counts, height, width):
    lengths = decompressed(counts)
    pixels = np.repeat(np.arange(len(lengths)) % 2, lengths)
    return pixels.reshape(width, height).T.astype(bool)


def test_records_equal_a_folder_in_cocos_layout(data_dir):
    data = open_coco(coco_folder(data_dir, CONFIG.name))
    assert data.has_masks
    assert data.test is None
    assert data.categories == CATEGORIES
    folder = data_dir / "scenes" / CONFIG.name
    ids = []
    for source, part, count in ((data.train, "train", 24), (data.validation, "val", 6)):
        reader = COCO(folder / "annotations" / f"instances_{part}.json")
        assert len(source) == len(reader.imgs) == count
        for record in map(source.__getitem__, range(len(source))):
            ids.append(record["image_id"])
            assert record["image"] == (folder / part / record["file_name"]).read_bytes()
            annotations = reader.imgToAnns[record["image_id"]]
            np.testing.assert_array_equal(
                record["objects"]["bbox"], [annotation["bbox"] for annotation in annotations]
            )
    assert len(set(ids)) == 30


def test_category_ids_have_gaps_and_are_ordered():
    ids = [category.id for category in CATEGORIES]
    assert ids == sorted(ids)
    assert np.diff(ids).max() > 1
    assert [category.name for category in CATEGORIES] == list(CLASSES)


def test_scenes_are_landscapes_and_portraits_with_few_and_many_objects(data_dir):
    train = open_coco(coco_folder(data_dir, CONFIG.name)).train
    sizes, counts, labels = set(), set(), set()
    for record in map(train.__getitem__, range(len(train))):
        with Image.open(io.BytesIO(record["image"])) as image:
            assert image.size == (record["width"], record["height"])
        sizes.add((record["height"], record["width"]))
        counts.add(len(record["objects"]["id"]))
        labels |= set(record["objects"]["label"].tolist())
    assert sizes == {(72, 96), (96, 72)}
    assert counts == {1, 2, 3, 4, 5}
    assert labels == set(range(12))


@pytest.mark.parametrize(("split", "green"), [("train", 0), ("validation", 90)])
def test_masks_lie_on_objects_of_their_class_and_split(data_dir, split, green):
    """Compares colours in the masks with those of the ellipses, within the accuracy of JPEG."""
    source = getattr(open_coco(coco_folder(data_dir, CONFIG.name)), split)
    checked = 0
    for record in map(source.__getitem__, range(len(source))):
        with Image.open(io.BytesIO(record["image"])) as image:
            pixels = np.asarray(image).astype(int)
        objects = record["objects"]
        for label, counts, area in zip(
            objects["label"], objects["segmentation"], objects["area"], strict=True
        ):
            mask = runs_to_mask(counts, record["height"], record["width"])
            assert mask.sum() == area >= 16
            if area > 200:
                colour = np.median(pixels[mask], axis=0)
                np.testing.assert_allclose(colour, (20 * label, green, 255), atol=9)
                checked += 1
    assert checked > 3


@given(st.integers(0, 2**32), st.integers(1, 4))
def test_annotations_match_the_masks(seed, count):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(4, 30, size=2)
    masks = rng.random((count, height, width)) < 0.3
    masks[:, 1, 2] = True
    labels = tuple(rng.integers(12, size=count).tolist())
    annotations = annotations_of(Scene(Image.new("RGB", (width, height)), labels, masks))
    for label, mask, annotation in zip(labels, masks, annotations, strict=True):
        points = [(y, x) for y in range(height) for x in range(width) if mask[y, x]]
        top, left = min(y for y, _ in points), min(x for _, x in points)
        bottom, right = max(y for y, _ in points) + 1, max(x for _, x in points) + 1
        assert annotation["bbox"] == [left, top, right - left, bottom - top]
        assert annotation["area"] == len(points)
        assert annotation["category_id"] == CATEGORIES[label].id
        assert annotation["iscrowd"] == 0
        segmentation = annotation["segmentation"]
        assert segmentation["size"] == [height, width]
        np.testing.assert_array_equal(runs_to_mask(segmentation["counts"], height, width), mask)
    json.dumps(annotations)


def test_building_twice_gives_the_same_files(cache, data_dir, tmp_path):
    prepare_scenes(tmp_path, cache, CONFIG)
    for part in ("scenes", "coco_instances"):
        assert files(tmp_path / part) == files(data_dir / part)


def test_a_killed_build_starts_again(cache, data_dir, tmp_path):
    unfinished = tmp_path / "scenes" / f".unfinished-{CONFIG.name}" / "train"
    unfinished.mkdir(parents=True)
    (unfinished / "left.jpg").touch()
    prepare_scenes(tmp_path, cache, CONFIG)
    assert files(tmp_path / "scenes") == files(data_dir / "scenes")


def test_a_built_dataset_does_not_need_the_cache(data_dir, tmp_path):
    assert prepare_scenes(data_dir, tmp_path, CONFIG) == coco_folder(data_dir, CONFIG.name)


def test_a_larger_set_starts_with_the_scenes_of_a_smaller_one():
    photographs = [np.random.default_rng(0).integers(256, size=(100, 120, 3), dtype=np.uint8)]
    cutouts = [[Image.new("RGBA", (20, 20), (255, 0, 0, 255))] for _ in CLASSES]
    more = dataclasses.replace(CONFIG, training_images=1000)
    scenes = [scene((0, 3), photographs, cutouts, config) for config in (CONFIG, more)]
    assert scenes[0].image == scenes[1].image
    assert scene((1, 3), photographs, cutouts, CONFIG).image != scenes[0].image
    assert scene((0, 4), photographs, cutouts, CONFIG).image != scenes[0].image


def test_other_data_get_another_folder():
    others = [
        {"photographs": "pypi"},
        {"longer_side": 641},
        {"training_images": 1},
        {"validation_images": 1},
        {"smallest": 17},
        {"largest": 399},
        {"max_objects": 7},
    ]
    assert {field for other in others for field in other} == {
        field.name for field in dataclasses.fields(ScenesConfig)
    }
    names = {ScenesConfig(**fields).name for fields in [{}, *others]}
    assert len(names) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"largest": 481}, r"largest.*\b480\b.* 481\)$"),
        ({"smallest": 4}, r"smallest.*4, 400\)$"),
        ({"smallest": 50, "largest": 40}, r"smallest.*largest.*50, 40\)$"),
        ({"max_objects": 0}, r"max_objects.* 0$"),
        ({"training_images": 0}, r"training_images.* 0$"),
    ],
)
def test_impossible_scenes_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        ScenesConfig(**fields)


def test_an_empty_cache_names_the_command(tmp_path):
    with pytest.raises(DataError, match=r"data\.composed\.debian --cutouts --cache"):
        prepare_scenes(tmp_path / "data", tmp_path, CONFIG)


def test_there_are_small_medium_and_large_objects(cache, tmp_path):
    config = ScenesConfig("pypi", training_images=60, validation_images=12)
    data = open_coco(prepare_scenes(tmp_path, cache, config))
    records = itertools.chain(
        *(map(source.__getitem__, range(len(source))) for source in (data.train, data.validation))
    )
    areas = np.concatenate([record["objects"]["area"] for record in records])
    shares = np.histogram(areas, [0, 32**2, 96**2, np.inf])[0] / len(areas)
    assert shares.min() > 0.15
