import io
import itertools
import multiprocessing
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from pycocotools.coco import COCO

from experiments.data import coco
from experiments.data.coco import OFFICIAL_IDS, coco_boxes_folder, coco_folder, open_coco
from experiments.data.coco_annotations import Category
from experiments.data.coco_tfds import prepare
from experiments.data.errors import DataError
from experiments.data.records import ReadableRecords, RecordError
from tests.experiments.data.coco_folder import (
    CONFIG,
    file_name,
)


def records(source):
    return [source[index] for index in range(len(source))]


def files(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_records_equal_those_of_cocos_own_reader(folder, data_dir):
    data = open_coco(coco_folder(data_dir, "small"))
    assert data.has_masks
    assert data.categories == (Category(2, "cup"), Category(17, "cat"), Category(90, "brush"))
    for source, split in ((data.train, "train"), (data.validation, "val")):
        reader = COCO(folder / "annotations" / f"instances_{split}.json")
        assert sorted(record["image_id"] for record in records(source)) == sorted(reader.imgs)
        for record in records(source):
            image = reader.imgs[record["image_id"]]
            assert record["file_name"] == image["file_name"]
            assert (record["height"], record["width"]) == (image["height"], image["width"])
            assert record["image"] == (folder / split / image["file_name"]).read_bytes()
            objects, annotations = record["objects"], reader.imgToAnns[image["id"]]
            expected = {
                "id": [a["id"] for a in annotations],
                "bbox": np.reshape([a["bbox"] for a in annotations], (-1, 4)),
                "area": [a["area"] for a in annotations],
                "is_crowd": [a["iscrowd"] for a in annotations],
            }
            for name, values in expected.items():
                np.testing.assert_array_equal(objects[name], values, err_msg=name)
            ids = [data.categories[label].id for label in objects["label"]]
            assert ids == [a["category_id"] for a in annotations]
            assert objects["segmentation"] == [
                reader.annToRLE(a)["counts"].decode() if a["segmentation"] else ""
                for a in map(as_bytes, annotations)
            ]


def as_bytes(annotation):
    """pycocotools returns compressed run lengths from a JSON file as text."""
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
        encoded = segmentation["counts"].encode()
        return {**annotation, "segmentation": {**segmentation, "counts": encoded}}
    return annotation


def test_fields_have_the_types_of_a_record_also_without_objects(data_dir):
    data = open_coco(coco_folder(data_dir, "small"))
    counts = {}
    for record in itertools.chain(*map(records, (data.train, data.validation, data.test))):
        objects = record["objects"]
        counts[record["image_id"]] = n = len(objects["id"])
        types = {name: values.dtype for name, values in objects.items() if name != "segmentation"}
        assert types == {
            "id": np.int64,
            "bbox": np.float64,
            "area": np.float64,
            "label": np.int64,
            "is_crowd": np.bool_,
        }
        assert {len(values) for values in objects.values()} == {n}
        assert objects["bbox"].shape == (n, 4)
        assert {type(record[name]) for name in ("image_id", "height", "width")} == {int}
        with Image.open(io.BytesIO(record["image"])) as image:
            assert image.size == (record["width"], record["height"])
    assert counts == {11: 2, 12: 4, 13: 0, 21: 0, 22: 1, 31: 0}


def test_sources_can_be_sent_to_a_worker(data_dir):
    train = open_coco(coco_folder(data_dir, "small")).train
    copy = pickle.loads(pickle.dumps(train))
    assert len(copy) == len(train) == 3
    assert copy[2]["file_name"] == train[2]["file_name"]
    assert "train" in repr(copy)


def test_without_test_images_there_is_no_test_split(own_folder, tmp_path):
    (own_folder / "annotations" / "image_info_test-dev.json").unlink()
    assert open_coco(prepare(own_folder, tmp_path / "data", CONFIG)).test is None


def test_preparing_twice_gives_the_same_files(folder, data_dir, tmp_path):
    again = prepare(folder, tmp_path, CONFIG)
    assert files(again) == files(coco_folder(data_dir, "small"))


def test_a_killed_preparation_starts_again(own_folder, folder, data_dir, tmp_path):
    # The preparation waits for the content of one image, and is killed meanwhile.
    slow = own_folder / "val" / file_name(22)
    slow.unlink()
    os.mkfifo(slow)
    process = multiprocessing.get_context("spawn").Process(
        target=prepare, args=(own_folder, tmp_path, CONFIG)
    )
    process.start()
    while not is_read(slow):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    (left,) = (tmp_path / "coco_instances" / "small").glob("incomplete.*")
    assert left.is_dir()
    with pytest.raises(DataError, match=r"incomplete.*did not end"):
        coco_folder(tmp_path, "small")
    assert files(prepare(folder, tmp_path, CONFIG)) == files(coco_folder(data_dir, "small"))
    assert not left.exists()


def is_read(fifo):
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # no process reads it yet
        return False
    return True


def test_a_prepared_dataset_does_not_need_the_folder(data_dir, tmp_path):
    assert prepare(tmp_path / "gone", data_dir, CONFIG) == coco_folder(data_dir, "small")


def test_a_lost_file_is_named(data_dir, tmp_path):
    own = shutil.copytree(data_dir, tmp_path / "data")
    folder = coco_folder(own, "small")
    (lost,) = folder.glob("*-test.*")
    lost.unlink()
    with pytest.raises(DataError, match=rf"'test'.*{lost.name}"):
        open_coco(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        "{}",
        "[" * 100_000,
        '{"counts": {"train": [3, 6]}, "categories": [[2, "cup"]]}',
        '{"counts": [], "categories": []}',
        '{"counts": {"train": [3], "validation": [2], "test": [1]}, "categories": [[2]]}',
        '{"counts": {"train": [3], "validation": [2], "test": [1]}, "categories": [["2", "cup"]]}',
        '{"counts": {"train": [1e999], "validation": [2], "test": [1]}, "categories": []}',
    ],
)
def test_damaged_metadata_are_named(data_dir, tmp_path, text):
    own = shutil.copytree(data_dir, tmp_path / "data") / "coco_instances" / "small" / "1.0.0"
    (own / "metadata.json").write_text(text)
    with pytest.raises(DataError, match=str(own)):
        open_coco(own)


def test_other_data_are_refused(data_folder):
    with pytest.raises(DataError, match=r"coco_instances.* photograph_"):
        open_coco(data_folder)


def test_nothing_prepared_names_the_command(tmp_path):
    message = r"coco_instances/2017.*python -m experiments\.data\.coco COCO --data-dir "
    with pytest.raises(DataError, match=message + str(tmp_path)):
        coco_folder(tmp_path)
    message = r"coco/2017.*tfds build coco/2017 --file_format=array_record --data_dir="
    with pytest.raises(DataError, match=message + str(tmp_path)):
        coco_boxes_folder(tmp_path)


def test_the_command_ends_with_a_message(tmp_path, run_failing):
    code, message = run_failing(coco.main, tmp_path, "--data-dir", tmp_path / "data")
    assert code == 2
    assert message.startswith("error: the annotations ")


class Coco(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Has name, version and features of tfds' own builder, and a few images."""

    VERSION = tfds.core.Version("1.1.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="2017")]  # noqa: RUF012

    def _info(self):
        objects = {
            "id": np.int64,
            "area": np.int64,
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=[f"name {n}" for n in OFFICIAL_IDS]),
            "is_crowd": np.bool_,
        }
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence(objects),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples() for name in ("train", "validation", "test")}

    def _generate_examples(self):
        def box(x, y, width, height):
            return tfds.features.BBox(y / 40, x / 60, (y + height) / 40, (x + width) / 60)

        found = [
            {"id": 5, "area": 12, "bbox": box(6.5, 8, 20.25, 30), "label": 0, "is_crowd": True},
            {"id": 4, "area": 99, "bbox": box(0, 0, 60, 40), "label": 79, "is_crowd": False},
        ]
        for number, objects in enumerate((found, [])):
            encoded = io.BytesIO()
            Image.new("RGB", (60, 40)).save(encoded, "jpeg")
            image = io.BytesIO(encoded.getvalue())
            name = file_name(number)
            yield (
                name,
                {"image": image, "image/filename": name, "image/id": number, "objects": objects},
            )


def test_data_prepared_by_tfds_give_the_same_records_without_masks(tmp_path):
    Coco(config="2017", data_dir=tmp_path, file_format="array_record").download_and_prepare()
    folder = coco_boxes_folder(tmp_path)
    assert folder == tmp_path / "coco" / "2017" / "1.1.0"
    data = open_coco(folder)
    assert not data.has_masks
    assert len(data.train) == len(data.validation) == 2
    assert data.test is None  # tfds has 40,670 images; the server evaluates half of them
    assert data.categories[0] == Category(1, "name 1")
    assert data.categories[79] == Category(90, "name 90")
    empty, record = sorted(records(data.train), key=lambda record: len(record["objects"]["id"]))
    assert (record["height"], record["width"]) == (40, 60)
    assert (record["image_id"], record["file_name"]) == (0, file_name(0))
    assert record["image"][:2] == b"\xff\xd8"
    objects = record["objects"]
    np.testing.assert_array_equal(objects["id"], [5, 4])
    np.testing.assert_allclose(
        objects["bbox"], [[6.5, 8, 20.25, 30], [0, 0, 60, 40]], rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(objects["area"], [12, 99])
    np.testing.assert_array_equal(objects["label"], [0, 79])
    np.testing.assert_array_equal(objects["is_crowd"], [True, False])
    assert objects["segmentation"] == ["", ""]
    assert empty["objects"]["bbox"].shape == (0, 4)
    types = {name: values.dtype for name, values in objects.items() if name != "segmentation"}
    assert types["bbox"] == types["area"] == np.float64
    assert types["id"] == types["label"] == np.int64


def test_official_ids_skip_categories_without_annotations():
    """Known ids before and after each gap, by the index of the name among the 80."""
    known = {0: 1, 10: 11, 11: 13, 23: 25, 24: 27, 25: 28, 26: 31, 39: 44, 40: 46, 59: 65}
    known |= {60: 67, 61: 70, 62: 72, 72: 82, 73: 84, 79: 90}
    assert {place: OFFICIAL_IDS[place] for place in known} == known
    assert len(set(OFFICIAL_IDS)) == 80


def test_an_image_whose_size_cannot_be_read_is_skipped():
    good = io.BytesIO()
    Image.new("RGB", (60, 40)).save(good, "jpeg")
    objects = {"id": [], "area": [], "bbox": [], "label": [], "is_crowd": []}
    source = coco.BoxRecords(
        [
            {"image": image, "image/id": 1, "image/filename": b"a.jpg", "objects": objects}
            for image in (b"no image", good.getvalue())
        ]
    )
    with pytest.raises(RecordError, match="record 0 of "):
        source[0]
    assert ReadableRecords(source, dict, attempts=2)[0]["unreadable"].tolist() == [0, -1]
