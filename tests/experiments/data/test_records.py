import pickle

import numpy as np
import pytest
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from experiments.data.records import PaddedRecords, ReadableRecords, RecordError

BLANK = {"image": np.zeros(2, np.uint8)}


def decode(record):
    if record < 0:
        raise RecordError("negative")
    return {"image": np.full(2, record, np.uint8)}


def test_readable_records_are_decoded():
    records = ReadableRecords([5, 6, 7], decode, attempts=2)
    assert len(records) == 3
    example = records[1]
    assert example.keys() == {"image", "record", "unreadable"}
    np.testing.assert_array_equal(example["image"], [6, 6])
    assert example["record"] == 1
    assert example["record"].dtype == example["unreadable"].dtype == np.int64
    assert example["unreadable"].tolist() == [-1, -1]


def test_an_unreadable_record_is_replaced_by_the_next_readable_one():
    records = ReadableRecords([-1, 6, -1, -1], decode, attempts=4)
    found = [records[index] for index in range(4)]
    assert [example["image"][0] for example in found] == [6, 6, 6, 6]
    assert [int(example["record"]) for example in found] == [1, 1, 1, 1]
    assert [example["unreadable"].tolist() for example in found] == [
        [0, -1, -1, -1],
        [-1, -1, -1, -1],
        [2, 3, 0, -1],
        [3, 0, -1, -1],
    ]


def test_too_many_unreadable_records_in_a_row_are_all_named():
    records = ReadableRecords([1, -1, -1, -1, 1], decode, attempts=3)
    with pytest.raises(RecordError, match=r" 3 .*\[1, 2, 3\]"):
        records[1]
    assert records[2]["record"] == 4


@pytest.mark.parametrize("attempts", [0, 3])
def test_invalid_numbers_of_attempts_are_refused(attempts):
    with pytest.raises(ValueError, match=rf"attempts.*2.* {attempts}$"):
        ReadableRecords([1, 2], decode, attempts=attempts)


def test_padded_records_count_every_readable_one_once():
    records = PaddedRecords([5, -1, 7], decode, 4, BLANK)
    assert len(records) == 4
    found = [records[index] for index in range(4)]
    assert [example["image"].tolist() for example in found] == [[5, 5], [0, 0], [7, 7], [0, 0]]
    assert [float(example["weight"]) for example in found] == [1, 0, 1, 0]
    assert [int(example["record"]) for example in found] == [0, 1, 2, -1]
    assert [example["unreadable"].tolist() for example in found] == [[-1], [1], [-1], [-1]]
    assert {example["weight"].dtype for example in found} == {np.dtype(np.float32)}


def test_a_selection_of_records_keeps_their_numbers():
    source = [5, -1, 7, -1, 9, 4]
    numbers = np.array([4, 3, 0])
    readable = ReadableRecords(source, decode, attempts=2, numbers=numbers)
    assert len(readable) == 3
    found = [readable[index] for index in range(3)]
    assert [example["image"][0] for example in found] == [9, 5, 5]
    assert [int(example["record"]) for example in found] == [4, 0, 0]
    assert [example["unreadable"].tolist() for example in found] == [[-1, -1], [3, -1], [-1, -1]]
    padded = PaddedRecords(source, decode, 4, BLANK, numbers)
    assert len(padded) == 4
    found = [padded[index] for index in range(4)]
    assert [int(example["record"]) for example in found] == [4, 3, 0, -1]
    assert [example["unreadable"].tolist() for example in found] == [[-1], [3], [-1], [-1]]
    assert [float(example["weight"]) for example in found] == [1, 0, 1, 0]
    with pytest.raises(ValueError, match=r"attempts.*3.* 4$"):
        ReadableRecords(source, decode, attempts=4, numbers=numbers)


@pytest.mark.parametrize(("multiple", "length"), [(1, 5), (2, 6), (5, 5), (8, 8)])
def test_the_padded_length(multiple, length):
    assert len(PaddedRecords([1] * 5, decode, multiple, BLANK)) == length


def test_a_multiple_below_one_is_refused():
    with pytest.raises(ValueError, match=r"multiple.* 0$"):
        PaddedRecords([1], decode, 0, BLANK)


@pytest.fixture
def shard(tmp_path):
    """Ten records of 4 kB; record i consists of the byte i."""
    path = tmp_path / "shard.array_record"
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for number in range(10):
        writer.write(bytes([number]) * 4096)
    writer.close()
    return path


def first_byte(record):
    return {"image": np.uint8(record[0])}


def damage(shard, number):
    content = bytearray(shard.read_bytes())
    start = content.index(bytes([number]) * 4096)
    content[start + 2000] ^= 1
    shard.write_bytes(content)


def test_only_a_record_with_a_wrong_checksum_is_replaced(shard):
    damage(shard, 4)
    records = ReadableRecords(ArrayRecordDataSource([str(shard)]), first_byte)
    found = [records[index] for index in range(10)]
    assert [int(example["image"]) for example in found] == [0, 1, 2, 3, 5, 5, 6, 7, 8, 9]
    assert found[4]["unreadable"].tolist() == [4, -1, -1, -1]
    padded = PaddedRecords(ArrayRecordDataSource([str(shard)]), first_byte, 4, {"image": 0})
    assert [int(padded[index]["weight"]) for index in range(12)] == [1] * 4 + [0] + [1] * 5 + [0, 0]


def test_a_missing_file_is_an_error_not_an_unreadable_record(shard):
    records = ReadableRecords(ArrayRecordDataSource([str(shard)]), first_byte)
    shard.unlink()
    with pytest.raises(RuntimeError, match=r"No such file.*shard\.array_record") as error:
        records[7]
    assert "record 7" in error.value.__notes__[0]


def test_a_truncated_file_is_an_error_not_an_unreadable_record(shard):
    records = ReadableRecords(ArrayRecordDataSource([str(shard)]), first_byte)
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(RuntimeError) as error:
        records[7]
    assert "record 7" in error.value.__notes__[0]


def test_both_pickle_for_the_workers(shard):
    source = ArrayRecordDataSource([str(shard)])
    for records in (
        ReadableRecords(source, first_byte),
        PaddedRecords(source, first_byte, 2, BLANK),
    ):
        assert pickle.loads(pickle.dumps(records))[3]["image"] == 3
