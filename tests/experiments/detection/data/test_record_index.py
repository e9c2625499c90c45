import logging

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from experiments.detection.data import record_index
from experiments.detection.data.record_index import cached_index, index_records
from tests.experiments.detection.fake_records import make_record, noise


class Counting(list):
    """A source that counts how many records are read."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        record = super().__getitem__(index)
        if record is None:
            raise RuntimeError("Corrupted record")
        return record


@pytest.fixture
def source():
    wide, tall, square = noise(4, 6), noise(6, 4), noise(5, 5)
    return Counting(
        [
            make_record(70, wide, [[0, 0, 2, 2], [1, 1, 2, 2], [1, 1, 0, 2]]),
            make_record(71, tall, []),
            make_record(72, tall, [[0, 0, 3, 3]], crowd=[True]),
            make_record(73, square, [[9, 9, 3, 3]]),
            None,
            make_record(75, tall, [[0, 0, 3, 3], [1, 1, 2, 2]], crowd=[True, False]),
        ]
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "dataset_info.json").write_text('{"shardLengths": [6]}')
    return tmp_path


def assert_equal(first, second):
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, getattr(second, name))
        assert array.dtype == getattr(second, name).dtype


def test_every_record_has_its_entry(source):
    index = index_records(source)
    assert len(index) == 6
    assert index.image_id.tolist() == [70, 71, 72, 73, -1, 75]
    assert index.portrait.tolist() == [False, True, True, False, False, True]
    assert index.objects.tolist() == [2, 0, 1, 0, 0, 2]
    assert index.usable.tolist() == [True, False, False, False, True, True]


def test_objects_without_area_are_not_counted(source):
    source[0]["objects"]["area"][:2] = 0
    source[5]["objects"]["area"][0] = 0
    index = index_records(source)
    assert index.objects.tolist() == [0, 0, 1, 0, 0, 1]
    assert index.usable.tolist() == [False, False, False, False, True, True]


def test_no_image_is_decoded(source):
    intact = index_records(source)
    for record in source:
        if record is not None:
            record["image"] = b""
    assert_equal(index_records(source), intact)


def test_an_index_is_saved_and_read_back(source, folder):
    made = cached_index(source, folder, "train")
    reads = source.reads
    assert reads == len(source)
    assert_equal(cached_index(source, folder, "train"), made)
    assert source.reads == reads
    assert sorted(path.name for path in folder.iterdir()) == [
        "dataset_info.json",
        "record_index_train.npz",
    ]


@pytest.mark.parametrize("change", ["length", "dataset", "split"])
def test_an_index_of_different_data_is_rebuilt(source, folder, change):
    cached_index(source, folder, "train")
    split = "train"
    if change == "length":
        source.append(source[0])
    elif change == "dataset":
        (folder / "dataset_info.json").write_text('{"shardLengths": [3, 3]}')
    else:
        split = "validation"
        (folder / "record_index_train.npz").rename(folder / "record_index_validation.npz")
    source.reads = 0
    assert len(cached_index(source, folder, split)) == len(source)
    assert source.reads == len(source)
    cached_index(source, folder, split)
    assert source.reads == len(source)


@pytest.mark.parametrize("keep", [0, 1, 100, -30])
def test_a_damaged_index_is_rebuilt(source, folder, keep):
    made = cached_index(source, folder, "train")
    path = folder / "record_index_train.npz"
    path.write_bytes(path.read_bytes()[:keep])
    assert_equal(cached_index(source, folder, "train"), made)
    source.reads = 0
    cached_index(source, folder, "train")
    assert source.reads == 0


def test_pickles_are_not_read(source, folder):
    np.savez(folder / "record_index_train.npz", key=np.array([None]), allow_pickle=True)
    assert len(cached_index(source, folder, "train")) == 6


def test_in_a_read_only_folder_the_index_is_not_saved(source, folder, monkeypatch, caplog):
    def refuse(path, write):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(record_index, "write_atomically", refuse)
    with caplog.at_level(logging.WARNING):
        assert len(cached_index(source, folder, "train")) == 6
    assert "cannot be saved" in caplog.text
    assert "record_index_train.npz" in caplog.text


def test_the_second_process_reads_the_index_that_the_first_wrote(source, folder, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    # While the second process waits, the first one builds the index.
    others = []

    def meet(name):
        monkeypatch.setattr(jax, "process_index", lambda: 0)
        monkeypatch.setattr(multihost_utils, "sync_global_devices", lambda name: None)
        others.append(cached_index(Counting(source), folder, "train"))
        monkeypatch.setattr(record_index, "index_records", lambda source: pytest.fail("read again"))

    monkeypatch.setattr(multihost_utils, "sync_global_devices", meet)
    assert_equal(cached_index(source, folder, "train"), others[0])
    assert len(others) == 1
    assert source.reads == 0
