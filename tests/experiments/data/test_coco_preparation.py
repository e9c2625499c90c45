"""Valid folders in COCO's layout can be prepared; the faults of others are named."""

import json
import os
import re
import shutil
import sys
import unicodedata

import numpy as np
import pytest
from PIL import ExifTags, Image
from tensorflow_datasets.core import hashing, shuffle

from experiments.data import coco, dataset_writing
from experiments.data.coco import coco_folder, open_coco
from experiments.data.coco_tfds import COCO_2017, prepare
from experiments.data.errors import DataError
from tests.experiments.data.coco_folder import (
    CONFIG,
    SIZES,
    contents,
    file_name,
    write_folder,
)


def change_json(folder, split, change):
    path = folder / "annotations" / f"instances_{split}.json"
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def lose_image(folder):
    (folder / "train" / file_name(12)).unlink()


def damage_image(folder):
    (folder / "train" / file_name(12)).write_bytes(b"no image")


def other_image(folder):
    Image.new("RGB", (SIZES[12][0], SIZES[12][1])).save(folder / "train" / file_name(12))


def broken_link(folder):
    (folder / "train" / file_name(12)).unlink()
    (folder / "train" / file_name(12)).symlink_to("nowhere.png")


def turned_image(folder):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    image = Image.new("RGB", (SIZES[12][0], SIZES[12][1]))
    image.save(folder / "train" / file_name(12), exif=exif)


def heic_image(folder):
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (folder / "train" / file_name(12)).write_bytes(heic)


def deep_image(folder):
    image = Image.new("I;16", (SIZES[12][1], SIZES[12][0]))
    image.save(folder / "train" / file_name(12))


def folder_for_image(folder):
    (folder / "train" / file_name(12)).unlink()
    (folder / "train" / file_name(12)).mkdir()


def lose_images(folder):
    shutil.rmtree(folder / "val")


def lose_annotations(folder):
    (folder / "annotations" / "instances_val.json").unlink()


def no_images(folder):
    change_json(folder, "val", lambda value: value.update(images=[], annotations=[]))


def other_images(folder):
    change_json(folder, "val", lambda value: value["images"].pop(0))


def other_categories(folder):
    change_json(folder, "val", lambda value: value["categories"].append({"id": 5, "name": "x"}))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lose_image, r"own/train.* 1 .* 3 .*train\.json.*000000000012\.png"),
        (damage_image, r"image .*000000000012\.png"),
        (other_image, r"12\.png.* 50 x 30 .*train\.json.* 30 x 50"),
        (lose_images, r"own/val.* folder"),
        (lose_annotations, r"instances_val\.json.*No such file"),
        (broken_link, r"000000000012\.png.*No such file"),
        (turned_image, r"12\.png.* 50 x 30 .* 30 x 50\. .*EXIF"),
        (heic_image, r"000000000012\.png.*HEIC.* PNG or JPEG"),
        (deep_image, r"000000000012\.png.*8 bits"),
        (folder_for_image, r"own/train.* 1 .* 3 .*000000000012\.png"),
        (no_images, r"val\.json.*image.* none"),
        (other_images, r"val\.json.*annotations\[0\].*image_id.* 22"),
        (other_categories, r"val\.json.*categories.*train\.json.*\[\(5, 'x'\)\]"),
    ],
)
def test_errors_of_a_folder_are_named_and_leave_no_files(own_folder, tmp_path, break_it, message):
    break_it(own_folder)
    with pytest.raises(DataError, match=message):
        prepare(own_folder, tmp_path / "data", CONFIG)
    assert [path.name for path in (tmp_path / "data" / "coco_instances" / "small").iterdir()] == [
        ".lock"
    ]


def renamed(folder, path, listed):
    """Moves an image of the training set to ``path``, and lists it as ``listed``."""
    target = folder / "train" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / "train" / file_name(13)).rename(target)
    change_json(folder, "train", lambda value: value["images"][0].update(file_name=listed))


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("rooms/1/a.jpg", "rooms/1/a.jpg"),
        ("rooms/1/a.jpg", "./rooms//1/./a.jpg"),
        ("a.jpg", "./a.jpg"),
        ("train/a.jpg", "train/a.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
        (unicodedata.normalize("NFD", "Käse.jpg"), unicodedata.normalize("NFD", "Käse.jpg")),
    ],
)
def test_images_may_be_in_subfolders(own_folder, tmp_path, path, listed):
    renamed(own_folder, path, listed)
    source = open_coco(prepare(own_folder, tmp_path / "data", CONFIG)).train
    (record,) = (
        record for record in map(source.__getitem__, range(len(source))) if record["image_id"] == 13
    )
    assert record["file_name"] == path
    assert record["image"] == (own_folder / "train" / path).read_bytes()


@pytest.mark.parametrize(
    ("path", "listed"),
    [
        ("a.jpg", "train/a.jpg"),
        ("rooms/a.jpg", "data/train/rooms/a.jpg"),
        ("rooms/a.jpg", "rooms\\a.jpg"),
        ("a.jpg", "C:\\data\\train\\a.jpg"),
        ("A.JPG", "a.jpg"),
        ("Rooms/a.jpg", "rooms/a.jpg"),
        (unicodedata.normalize("NFC", "Käse.jpg"), unicodedata.normalize("NFD", "Käse.jpg")),
        (unicodedata.normalize("NFD", "Käse.jpg"), unicodedata.normalize("NFC", "Käse.jpg")),
    ],
)
def test_a_missing_image_is_named_with_the_file_that_may_be_meant(
    own_folder, tmp_path, path, listed
):
    renamed(own_folder, path, listed)
    message = re.escape(f"{path!a} meant?") + ".*" + re.escape(ascii(listed))
    with pytest.raises(DataError, match=message):
        prepare(own_folder, tmp_path / "data", CONFIG)


def list_many_images(folder, split, names):
    """Makes small images with the ids 0, 1 and so on the whole of a split."""
    for name in names:
        path = folder / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(path)
    listed = [
        {"id": number, "file_name": name, "height": 2, "width": 3}
        for number, name in enumerate(names)
    ]
    change_json(folder, split, lambda value: value.update(images=listed, annotations=[]))


def test_a_folder_with_many_images_is_listed_once(own_folder, tmp_path, monkeypatch):
    names = [f"rooms/{number % 2}/{number}.jpg" for number in range(40)]
    list_many_images(own_folder, "train", names)
    scanned = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or scandir(path))
    assert len(open_coco(prepare(own_folder, tmp_path / "data", CONFIG)).train) == 40
    assert sorted(path for path in scanned if "rooms" in path) == [
        str(own_folder / "train/rooms/0"),
        str(own_folder / "train/rooms/1"),
    ]


def records(source):
    return [source[index] for index in range(len(source))]


class NoTensorFlow:
    """A finder of modules which makes imports of TensorFlow fail."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_large_dataset_needs_no_tensorflow(folder, data_dir, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoTensorFlow(), *sys.meta_path])
    # tfds' limit for records that are sorted in memory.
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1)
    monkeypatch.setattr(dataset_writing, "RECORDS_PER_FILE", 2)
    large = prepare(folder, tmp_path, CONFIG)
    assert len(list(large.glob("*-train.*"))) == 2
    found, expected = open_coco(large), open_coco(coco_folder(data_dir, "small"))
    for split in ("train", "validation", "test"):
        for record, same in zip(
            records(getattr(found, split)), records(getattr(expected, split)), strict=True
        ):
            np.testing.assert_equal(record, same)


def test_the_order_of_the_records_is_tfds_own(own_folder, tmp_path):
    # Resumed runs continue in the order of datasets that a builder of tfds prepared.
    ids = range(40)
    for split in ("train", "val"):
        list_many_images(own_folder, split, [f"{number}.jpg" for number in ids])
    data = open_coco(prepare(own_folder, tmp_path / "data", CONFIG))
    for split, source in (("train", data.train), ("validation", data.validation)):
        expected = sorted(ids, key=hashing.Hasher(split).hash_key)
        assert [record["image_id"] for record in records(source)] == expected


def test_the_official_years_must_have_all_their_images(tmp_path):
    parts = contents()
    folder = write_folder(tmp_path / "coco", {"train2017": parts["train"], "val2017": parts["val"]})
    message = r"COCO 2017.*'train'.* 118287 .*860001 .* 3 .* 6$"
    with pytest.raises(DataError, match=message):
        prepare(folder, tmp_path / "data", COCO_2017)
    # The annotations of 2014, which split the same images in another way.
    total = np.add((82_783, 604_907), (40_504, 291_875))
    counts = COCO_2017.counts
    np.testing.assert_array_equal(np.add(counts["train"], counts["validation"]), total)


def test_the_command_names_a_folder_that_cannot_be_written(folder, tmp_path, run_failing):
    (tmp_path / "data").write_text("a file")
    code, message = run_failing(coco.main, folder, "--data-dir", tmp_path / "data")
    assert code == 2
    assert re.fullmatch(r"error: .*data.*\n", message)


def test_a_prepared_dataset_may_be_read_only(own_folder, tmp_path):
    prepared = prepare(own_folder, tmp_path / "data", CONFIG)
    lock = prepared.parent / ".lock"
    lock.unlink()
    lock.mkdir()  # cannot be opened for writing, even by root
    assert prepare(own_folder, tmp_path / "data", CONFIG) == prepared
