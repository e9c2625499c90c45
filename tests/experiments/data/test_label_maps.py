import dataclasses
import pickle
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data.errors import DataError
from experiments.data.label_files import LabelFiles, LabelFormat, LabelledImage, encode_label
from experiments.data.label_maps import decode_label, open_label_maps
from experiments.data.label_maps_tfds import label_maps_path, prepare
from experiments.data.records import ReadableRecords, RecordError

# More than a file of records holds.
COUNT = 1_100


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A dataset of many images; the size and the classes of each follow from its number."""
    folder = tmp_path_factory.mktemp("many")
    pairs = []
    for number in range(COUNT):
        height, width = 1 + number % 7, 1 + number % 11
        image, label = folder / f"{number}.png", folder / f"{number}_label.png"
        Image.fromarray(np.full((height, width), number % 251, np.uint8)).save(image)
        label.write_bytes(encode_label(np.full((height, width), number % 3, np.uint8)))
        # Names in the opposite order.
        pairs.append(LabelledImage(image, label, f"{COUNT - number:04}.png", f"scene {number}"))
    files = LabelFiles(("cup", "cat"), {"train": pairs, "validation": pairs[:5]}, LabelFormat(2, 0))
    return prepare("many", folder / "data", lambda: files)


@pytest.fixture(scope="module")
def data(prepared):
    return open_label_maps(prepared)


@pytest.fixture
def own(prepared, tmp_path):
    """A copy to break."""
    return shutil.copytree(prepared, tmp_path / "label_maps" / "many" / "1.0.0")


def test_records_keep_their_order_over_several_files(prepared, data):
    assert len(list(prepared.glob("*train*"))) == 2
    assert len(data.train) == COUNT
    for number in range(COUNT):
        record = data.train[number]
        assert record["file_name"] == f"{COUNT - number:04}.png"
        assert record["scene"] == f"scene {number}"
        assert (record["height"], record["width"]) == tuple(data.sizes["train"][number])
        assert (record["height"], record["width"]) == (1 + number % 7, 1 + number % 11)
        expected = [255, 0, 1][number % 3]
        np.testing.assert_array_equal(
            decode_label(record), np.full((record["height"], record["width"]), expected)
        )
    assert data.unlabelled_images == {"train": 367, "validation": 2}


class ChangingFile:
    """A path of a file that is damaged after it was read once."""

    def __init__(self, path):
        self.path = path

    def read_bytes(self):
        path, self.path = self.path, Path("/nowhere")
        return path.read_bytes()

    def __str__(self):
        return "changing.png"


def test_a_file_that_changes_after_the_check_leaves_no_dataset(tmp_path):
    files = write_two(tmp_path)
    pairs = files.splits["train"]
    changing = dataclasses.replace(pairs[0], label=ChangingFile(pairs[0].label))
    changed = dataclasses.replace(files, splits={"train": [changing], "validation": pairs})
    with pytest.raises(DataError, match=r"changing\.png cannot be read: No such file"):
        prepare("two", tmp_path / "data", lambda: changed)
    home = tmp_path / "data" / "label_maps" / "two"
    assert [path.name for path in home.iterdir()] == [".lock"]
    assert len(open_label_maps(prepare("two", tmp_path / "data", lambda: files)).train) == 2


def test_a_process_that_waited_does_not_prepare_the_dataset_again(tmp_path):
    files = write_two(tmp_path)
    calls, others = [], []

    def list_files():
        calls.append(1)
        other = threading.Thread(target=prepare, args=("two", tmp_path / "data", list_files))
        other.start()
        others.append(other)
        time.sleep(0.3)  # the other thread finds no dataset, and waits for the lock
        return files

    prepare("two", tmp_path / "data", list_files)
    others[0].join()
    assert len(calls) == 1


def write_two(folder):
    """Writes two images, which are both splits."""
    pairs = []
    for number in range(2):
        image, label = folder / f"{number}.jpg", folder / f"{number}.png"
        Image.new("RGB", (3, 2)).save(image)
        label.write_bytes(encode_label(np.zeros((2, 3), np.uint8)))
        pairs.append(LabelledImage(image, label, image.name))
    return LabelFiles(("cup",), {"train": pairs, "validation": pairs}, LabelFormat(1))


def test_records_have_plain_types(data):
    types = {name: type(value) for name, value in data.validation[0].items()}
    assert types == {
        "image": bytes,
        "label": bytes,
        "height": int,
        "width": int,
        "file_name": str,
        "scene": str,
    }


def test_sources_can_be_sent_to_a_worker(data):
    copy = pickle.loads(pickle.dumps(data.train))
    assert len(copy) == COUNT
    assert copy[1_050] == data.train[1_050]
    assert "train" in repr(copy)


def test_the_folder_of_a_dataset_follows_from_its_name(prepared):
    assert label_maps_path(prepared.parents[2], "many") == prepared


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": b"no image"}, r"7\.png cannot be read"),
        ({"label": encode_label(np.zeros((3, 2), np.uint8))}, r"7\.png.*'L', 3, 2.*'L', 2, 3"),
        ({"width": 4}, r"7\.png.*'L', 4, 2.*'L', 3, 2"),
    ],
)
def test_a_label_that_cannot_be_used_is_named(caplog, change, message):
    good = {
        "label": encode_label(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "file_name": "7.png",
        "height": 2,
        "width": 3,
    }
    np.testing.assert_array_equal(decode_label(good), [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(RecordError, match=message):
        decode_label({**good, **change})
    assert "7.png" in caplog.text


def test_a_label_with_colours_is_refused(tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    record = {"label": content, "file_name": "a.jpg", "height": 2, "width": 3}
    with pytest.raises(RecordError, match=r"a\.jpg.*'L', 3, 2.*'RGB', 3, 2"):
        decode_label(record)


def test_an_unreadable_label_is_skipped_in_training(data):
    damaged = [{**data.train[2], "label": b""}, data.train[1]]
    records = ReadableRecords(damaged, lambda record: {"label": decode_label(record)}, attempts=2)
    found = records[0]
    assert found["record"] == 1
    assert found["unreadable"].tolist() == [0, -1]


def test_a_lost_file_is_named(own):
    lost = sorted(own.glob("*train*"))[1]
    lost.unlink()
    with pytest.raises(DataError, match=rf"'train'.*{lost.name}"):
        open_label_maps(own)


GOOD = {
    "class_names": '["cup", "cat"]',
    "sizes": '{"train": [[1, 1]], "validation": [[1, 1]]}',
    "counts": f'{{"train": [{COUNT}, 3], "validation": [5, 0]}}',
}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        "{}",
        "[" * 100_000,
        *(
            "{" + ", ".join(f'"{key}": {value}' for key, value in {**GOOD, **change}.items()) + "}"
            for change in (
                {},  # too few sizes
                {"sizes": '{"train": [[1, 1]]}'},
                {"sizes": '{"train": [[1, 1], [1]], "validation": [[1, 1]]}'},
                {"sizes": '{"train": [[1, 1e99]], "validation": [[1, 1]]}'},
                {"counts": '{"train": [7, 3], "validation": [5, 0]}'},
                {"counts": '{"train": [], "validation": [5, 0]}'},
                {"class_names": "[]"},
                {"class_names": "[1]"},
                {"class_names": "3"},
            )
        ),
    ],
)
def test_damaged_metadata_are_named(own, text):
    (own / "metadata.json").write_text(text)
    with pytest.raises(DataError, match=str(own)):
        open_label_maps(own)


def test_other_data_are_refused(data_folder):
    with pytest.raises(DataError, match=r"label_maps.* photograph_"):
        open_label_maps(data_folder)
