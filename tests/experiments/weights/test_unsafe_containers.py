"""ZIP archives and safetensors whose directories and headers lie about what the files hold."""

import struct
import zipfile

import numpy as np
import pytest

from tests.experiments.weights.pickles import tensors, zip_file, zipped
from tests.experiments.weights.reading import refused

STATE = tensors({"a": np.arange(6, dtype=np.float32)})
GOOD = zip_file(STATE)
DIRECTORY = GOOD.index(b"PK\1\2")
END = GOOD.index(b"PK\5\6")


def changed(position, kind, value, content=GOOD):
    """Returns a file with another number in it."""
    size = struct.calcsize(kind)
    return content[:position] + struct.pack(kind, value) + content[position + size :]


def entry(name):
    """Where the directory describes a member."""
    return GOOD.index(name.encode(), DIRECTORY) - 46


def with_zip64(size, start, signature=b"PK\6\6"):
    """Returns a file whose directory is where a ZIP64 record says."""
    record = struct.pack("<4sQ2H2L4Q", signature, 44, 45, 45, 0, 0, 3, 3, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, END, 1)
    return GOOD[:END] + record + locator + GOOD[END:]


DATA = entry("archive/data/0")
TWICE = zip_file(STATE, **{"data/1": b""}).replace(b"data/1", b"data/0")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (GOOD[:END], "no directory at its end"),
        (changed(END + 12, "<L", 2**31), "exceeds its end"),
        (changed(END + 16, "<L", DIRECTORY + 1), "exceeds its end"),
        (changed(END + 16, "<L", DIRECTORY - 1), "bytes are expected"),
        (changed(END + 16, "<L", 2**32 - 1), "exceeds its end"),
        (with_zip64(END - DIRECTORY, 2**63), "exceeds its end"),
        (with_zip64(2**63, DIRECTORY), "exceeds its end"),
        (with_zip64(0, 0), "torch.save did not write"),
        (with_zip64(END - DIRECTORY, DIRECTORY, b"PK\6\5"), "ZIP64"),
        (changed(DATA + 20, "<L", 23), "compressed"),
        (changed(DATA + 24, "<L", 2**31), "compressed"),
        (changed(DATA + 10, "<H", 8), "compressed"),
        (changed(DATA + 8, "<H", 1), "encrypted"),
        (changed(DATA + 20, "<Q", (2**31 << 32) + 2**31), "bytes are expected"),
        (changed(DATA + 20, "<Q", 2**64 - 1), "size or position of a member is missing"),
        (changed(DATA + 20, "<Q", (28 << 32) + 28), "overlaps another"),
        (changed(DATA, "<L", 0), "describes no member"),
        (changed(DATA + 42, "<L", 0), "no member 'archive/data/0' begins at byte 0"),
        (changed(DATA + 42, "<L", 2**31), "bytes are expected"),
        (changed(DATA + 28, "<H", 2**16 - 1), "bytes are expected"),
        (changed(entry("archive/version") + 42, "<L", GOOD.index(b"PK\3\4", 9)), "no member"),
        (TWICE, "several members 'archive/data/0'"),
        (zipped({"a/data.pkl": b"", "b/data.pkl": b""}), "several pickles"),
        (zipped({"a/data.pkl": b""}), "1 bytes are expected"),
        (zip_file(STATE, **{"data/0": bytes(23)}), "data/0 of 24 bytes has 23 bytes"),
        (zip_file(STATE).replace(b"data/0", b"data/9"), "data/0 of 24 bytes does not exist"),
        (zipped({"a/data.pkl": bytes(10**6)}, zipfile.ZIP_DEFLATED), "to 1,000,000 bytes"),
        (zipped({"a/data.pkl": bytes(10**6)}, zipfile.ZIP_BZIP2), "to 1,000,000 bytes"),
    ],
)
def test_zip_files_that_lie_about_their_members_are_refused(content, found, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    assert found in refused(tmp_path / "w.pth")


def test_a_zip64_directory_is_read(tmp_path):
    (tmp_path / "w.pth").write_bytes(with_zip64(0, DIRECTORY))
    assert "torch.save did not write" in refused(tmp_path / "w.pth")  # no members


def test_a_directory_of_many_members_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "w.pth"
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(2**25)
        file.seek(2**25)
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 2**25 - 4, 4, 0))
    assert "its directory has 33,554,428 bytes" in refused(path)


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


def described(**tensors):
    parts = [
        f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}'
        for name, (dtype, shape, offsets) in tensors.items()
    ]
    return f"{{{','.join(parts)}}}".encode()


@pytest.mark.parametrize(
    "content",
    [
        header(described(a=("F32", [2], [0, 8]), b=("F32", [2], [4, 12])), bytes(12)),
        header(described(a=("F32", [2], [0, 8]), b=("F32", [2], [0, 8])), bytes(8)),
        header(described(a=("F32", [2], [4, 12])), bytes(12)),
        header(described(a=("F32", [2], [0, 8])), bytes(7)),
        header(described(a=("F32", [2], [0, 8])), bytes(9)),
        header(described(a=("F32", [3], [0, 8])), bytes(8)),
        header(described(a=("F32", [2**62, 4, 2], [0, 8])), bytes(8)),
        header(described(a=("F32", [-2], [0, 8])), bytes(8)),
        header(described(a=("F32", [2], [8, 0])), bytes(8)),
        header(described(a=("F32", [2], [0, 2**63])), bytes(8)),
        header(described(a=("OBJ", [2], [0, 8])), bytes(8)),
        header(b"{" + b'"a":[' * 100_000 + b"]" * 100_000 + b"}"),
        header(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}', bytes(8)),
        (2**24 + 1).to_bytes(8, "little") + b"{" + bytes(100),
        (2**63).to_bytes(8, "little") + b"{" + bytes(100),
    ],
)
def test_headers_of_safetensors_that_lie_are_refused(content, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(content)
    assert "damaged" in refused(tmp_path / "w.safetensors")


def test_a_long_header_of_safetensors_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    text = described(a=("F32", [2], [0, 8])) + b" " * 2**24
    path.write_bytes(header(text, bytes(8)))
    assert "16,777,271 bytes, more than the 16,777,216 of 100,000 tensors" in refused(path)
