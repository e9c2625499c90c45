"""Tests that the kind of a file is recognised by its content."""

import io
import json
import os

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from experiments.weights.files import open_weights
from tests.experiments.weights.pickles import zipped
from tests.experiments.weights.reading import refused

ARRAYS = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n_averaged": np.ones(1, int)}


def npz():
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    return file.getvalue()


def header(text):
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin", "weights"])
def test_arrays_are_read_by_name_whatever_the_suffix(name, tmp_path):
    save_file(ARRAYS, tmp_path / name)
    with open_weights(tmp_path / name) as entries:
        assert entries.keys() == ARRAYS.keys()
        entry = entries["fc.weight"]
        assert (entry.shape, entry.dtype, entry.is_floating) == ((2, 3), "F32", True)
        np.testing.assert_array_equal(entry.read(), ARRAYS["fc.weight"])
        assert not entries["n_averaged"].is_floating


def test_arrays_that_are_not_floating_point_are_marked(tmp_path):
    path = tmp_path / "weights.safetensors"
    text = b'{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}'
    path.write_bytes(header(text) + bytes(4))
    with open_weights(path) as entries:
        assert (entries["a"].dtype, entries["a"].is_floating) == ("F8_E4M3", False)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102514\n"
INDEX = json.dumps({"metadata": {}, "weight_map": {"fc.weight": "model-1.safetensors"}}).encode()
TWICE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2
OVERLAP = (
    b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", b"", "damaged: it is empty"),
        ("w.safetensors", save(ARRAYS)[:5], "damaged"),
        ("w.safetensors", save(ARRAYS)[:50], "damaged"),
        ("w.safetensors", save(ARRAYS)[:-1], "damaged"),
        ("w.safetensors", (2**40).to_bytes(8, "little") + b"{" * 99, "damaged"),
        ("w.safetensors", header(OVERLAP) + bytes(12), "damaged"),
        ("w.pth", b"text " * 9, "begins with b'text tex'"),
        ("w.png", b"\x89PNG\r\n\x1a\n" + bytes(99), r"begins with b'\x89PNG\r\n\x1a\n'"),
        ("w.safetensors", POINTER, "`git lfs pull`"),
        ("w.bin", POINTER, "`git lfs pull`"),
        ("w.bin", b"\n<!DOCTYPE html><html>", "/resolve/"),
        ("w.pth", b"<HTML>Sign in", "web page"),
        ("w.safetensors.index.json", INDEX, "index of a checkpoint in several files"),
        ("w.npz", npz(), "torch.save did not write: ['fc.weight.npy'"),
        ("w.pt", zipped({"m/data.pkl": "", "m/constants.pkl": ""}), "TorchScript"),
        ("w.pth", zipped({"m/data.pkl": ""})[:-30], "damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_other_files_are_refused_with_the_name_of_their_kind(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    assert message in refused(path)


def test_paths_that_are_not_files_are_refused(tmp_path):
    assert "got a folder" in refused(tmp_path)
    assert "got nothing" in refused(tmp_path / "none.safetensors")
    os.mkfifo(tmp_path / "pipe")
    assert "got no file" in refused(tmp_path / "pipe")
    assert "cannot be read" in refused(tmp_path / ("long" * 99))


def test_a_file_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    save_file(ARRAYS, path)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "open", refuse)
    assert "cannot be read: Permission denied" in refused(path)
