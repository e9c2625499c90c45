"""Tests how a model becomes one or several new files."""

import os

import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.weights.arrangements import DENSE
from experiments.weights.files import WeightsError
from experiments.weights.layout import Layout, Source, counter
from experiments.weights.saving import check_new, save
from tests.experiments.weights.reading import read

LAYOUT = Layout("toy", lambda path: Source(f"{path[1]}.weight", DENSE), counter)
VARIABLES = {"params": {"a": {"kernel": np.ones((2, 3))}, "b": {"kernel": np.zeros((1, 2))}}}


def file_of(name):
    return 0 if name.startswith("a.") else 1


def arrays(path):
    return {name: array.tolist() for name, array in read(path.read_bytes(), path).items()}


def test_variables_are_written_to_one_file(tmp_path):
    save([tmp_path / "new/all.pkl"], VARIABLES, LAYOUT, {"c": np.ones(1)})
    assert arrays(tmp_path / "new/all.pkl") == {
        "a.weight": [[1, 1]] * 3,
        "b.weight": [[0], [0]],
        "c": [1],
    }


def test_variables_are_written_to_two_files(tmp_path):
    paths = [tmp_path / "a.pth", tmp_path / "b.safetensors"]
    save(paths, VARIABLES, LAYOUT, {}, file_of)
    assert [arrays(path) for path in paths] == [
        {"a.weight": [[1, 1]] * 3},
        {"b.weight": [[0], [0]]},
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.pth", "b.bin"], r"output.*\.safetensors, \.pth, \.pt or \.pkl.*b\.bin"),
        (["a.pth", "there.pth"], r"output.*new.*there\.pth"),
        (["a.pth", "a.pth"], r"output.*different"),
        (["a.pth", "../{}/a.pth"], r"output.*different"),
        (["loop.pth", "loop.pth"], r"output.*different"),
    ],
)
def test_paths_are_checked_before_anything_is_written(names, message, tmp_path):
    (tmp_path / "there.pth").touch()
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    paths = [tmp_path / name.format(tmp_path.name) for name in names]
    with pytest.raises(ConfigError, match=message):
        check_new(paths)
    with pytest.raises(ConfigError, match=message):
        save(paths, VARIABLES, LAYOUT, {}, file_of)
    assert {path.name for path in tmp_path.iterdir()} == {"there.pth", "loop.pth"}


def test_no_file_is_written_if_an_array_fits_into_none(tmp_path):
    paths = [tmp_path / "a.pth", tmp_path / "b.safetensors"]
    with pytest.raises(WeightsError, match=r"b\.safetensors can hold .*c: complex128"):
        save(paths, VARIABLES, LAYOUT, {"c": np.ones(1, complex)}, file_of)
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    with pytest.raises(WeightsError, match=r"b\.pth cannot be written: No space left"):
        save(paths, VARIABLES, LAYOUT, {}, file_of)
    assert len(calls) == 2
    assert [*tmp_path.iterdir()] == []
