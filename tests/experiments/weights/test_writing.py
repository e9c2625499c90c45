"""Files of all formats are read again to the same arrays."""

import os
import pickle
import struct
import zipfile

import ml_dtypes  # noqa: F401 (registers its dtypes in NumPy)
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from experiments.weights import writing
from experiments.weights.files import WeightsError, open_weights
from experiments.weights.writing import write_weights
from tests.experiments.weights.reading import read

SUFFIXES = [".safetensors", ".pth", ".pt", ".pkl"]
NUMPY = [
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32",
    "uint16", "uint8", "bool", "complex64",
]  # fmt: skip
EIGHT_BITS = ["float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz"]
DTYPES = {
    ".safetensors": [*NUMPY, "bfloat16"],
    ".pth": [*NUMPY, "bfloat16", "complex128", "float8_e8m0fnu", *EIGHT_BITS],
    ".pkl": [*NUMPY, "complex128"],
}


def bits(dtype, count):
    """An array of random bits."""
    dtype = np.dtype(dtype)
    data = np.random.default_rng(0).integers(0, 256, count * dtype.itemsize, np.uint8)
    return (data & 1 if dtype.kind == "b" else data).view(dtype)


def assert_equal_bits(found, expected):
    assert [*found] == [*expected]
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(suffix, dtype) for suffix in DTYPES for dtype in DTYPES[suffix]]
)
def test_dtypes_are_kept_bit_for_bit(suffix, dtype, tmp_path):
    array = bits(dtype, 24).reshape(2, 3, 4)
    arrays = {"a": array, "b": array.T, "c": array[0, 0, 0], "d": array[:0], "e": array[:, ::2]}
    path = tmp_path / f"w{suffix}"
    write_weights(path, arrays)
    assert_equal_bits(read(path.read_bytes(), path), arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(
    arrays=st.dictionaries(
        st.text(max_size=20).filter(lambda name: name != "__metadata__"),  # of safetensors
        arrays_of.arrays(np.float32, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=4)),
        max_size=5,
    )
)
def test_names_and_shapes_are_kept(suffix, arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / f"w{suffix}"
    arrays = {name: arrays[name] for name in sorted(arrays)}
    write_weights(path, arrays)
    found = read(path.read_bytes(), path)
    assert_equal_bits({name: found[name] for name in sorted(found)}, arrays)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_other_byte_order_is_converted(suffix, tmp_path):
    path = tmp_path / f"w{suffix}"
    write_weights(path, {"a": np.array([1.5, -2], ">f4")})
    assert_equal_bits(read(path.read_bytes(), path), {"a": np.array([1.5, -2], "<f4")})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_arrays_give_equal_files(suffix, tmp_path):
    paths = tmp_path / f"a{suffix}", tmp_path / f"new/folder/b{suffix}"
    for path in paths:
        write_weights(path, {"x": np.ones(3, np.float32), "y": np.zeros(2)})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [each.name for each in paths[1].parent.iterdir()] == [f"b{suffix}"]


def test_pickles_are_read_by_python(tmp_path):
    path = tmp_path / "w.pkl"
    arrays = {dtype: bits(dtype, 6).reshape(2, 3) for dtype in DTYPES[".pkl"]}
    write_weights(path, arrays)
    content = pickle.loads(path.read_bytes())
    assert content.keys() == {"model", "__author__"}
    assert_equal_bits(content["model"], arrays)


def aligned(path):
    """Whether the content of each member begins at a multiple of 64 bytes, without compression."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        assert archive.testzip() is None
        for member in archive.infolist():
            assert member.compress_type == zipfile.ZIP_STORED
            file.seek(member.header_offset + 26)
            name, extra = struct.unpack("<2H", file.read(4))
            yield (member.header_offset + 30 + name + extra) % 64 == 0


@pytest.mark.parametrize("largest", [2**30, 10], ids=["32 bits", "64 bits"])
def test_members_of_a_zip_file_are_aligned(largest, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_LARGEST_MEMBER", largest)
    path = tmp_path / "w.pth"
    arrays = {f"{index}": np.arange(index, dtype=np.float32) for index in range(9)}
    write_weights(path, arrays)
    assert all(aligned(path))
    assert_equal_bits(read(path.read_bytes(), path), arrays)


@pytest.mark.parametrize("name", ["w.npz", "w", "w.PTH.gz", ".pth"])
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(WeightsError, match=r"one of \.safetensors, \.pth, \.pt, \.pkl, got"):
        write_weights(tmp_path / name, {"a": np.ones(1)})
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".pkl", "bfloat16"), (".pth", "U3"), (".pth", "O"), (".pth", "i4,f4"), (".pth", "int4"),
     (".safetensors", "complex128"), (".pth", "longdouble")],
)  # fmt: skip
def test_dtypes_that_a_format_lacks_are_refused_by_name(suffix, dtype, tmp_path):
    path = tmp_path / f"w{suffix}"
    arrays = {"fine": np.ones(1, np.float32), "wrong.one": np.zeros(2, dtype)}
    with pytest.raises(WeightsError, match=rf"w\{suffix} can hold .*float32.*wrong\.one"):
        write_weights(path, arrays)
    assert not path.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_cannot_be_written_keeps_its_content(suffix, tmp_path, monkeypatch):
    path = tmp_path / f"w{suffix}"
    write_weights(path, {"a": np.ones(2)})
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match=r"cannot be written: .+"):
        write_weights(tmp_path / "file" / path.name, {"a": np.ones(2)})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match=r"cannot be written: No space left"):
        write_weights(path, {"a": np.zeros(2)})
    with open_weights(path) as entries:
        np.testing.assert_array_equal(entries["a"].read(), np.ones(2))
    assert {each.name for each in tmp_path.iterdir()} == {"file", path.name}
