"""Tests the files of runs that were converted from weights."""

import errno
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from experiments.engine import converted_runs
from experiments.engine.checkpoints import CheckpointError
from experiments.engine.claim import CONFIG
from experiments.engine.config import ConfigError
from experiments.engine.converted_runs import REST, read_rest, write_converted_run
from experiments.weights.dtypes import TORCH_DTYPES
from tests.experiments.engine import toy


def write(output, rest=None):
    write_converted_run(output, toy.Config(), toy.START, [], "library", {"a.json": 1}, rest or {})


def test_a_link_to_an_empty_folder_can_be_the_output(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/config.json").exists()


def test_a_link_to_a_new_folder_can_be_the_output(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new" / "folder")
    write(tmp_path / "link")
    assert (tmp_path / "new/folder/config.json").exists()


def test_an_output_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for output in (tmp_path / "loop", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=f"output.*{output}"):
            write(output)


@pytest.mark.parametrize(
    ("holder", "function"), [(converted_runs, "write_json"), (Path, "write_bytes")]
)
def test_a_full_disk_is_an_error_that_names_the_output(holder, function, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(holder, function, fail)
    with pytest.raises(ConfigError, match=f"output.*{tmp_path / 'run'}.*No space left"):
        write(tmp_path / "run", {"a": np.ones(2)})
    assert not any(tmp_path.iterdir())


def test_an_output_that_was_filled_meanwhile_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(converted_runs, "check_output", lambda output: None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/file").touch()
    with pytest.raises(ConfigError, match=f"output.*{tmp_path / 'run'}"):
        write(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


DTYPES = [dtype.numpy for dtype in TORCH_DTYPES.values() if dtype.numpy is not None]


@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_the_rest_has_the_dtypes_of_pytorch(shape, tmp_path):
    rng = np.random.default_rng(0)
    rest = {}
    for dtype in DTYPES:
        rest[str(dtype)] = np.asfortranarray(rng.integers(0, 2, shape).astype(dtype))
    write(tmp_path / "run", rest)
    found = read_rest(tmp_path / "run", "library")
    assert found.keys() == rest.keys()
    for name, array in rest.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


def test_the_rest_completes_only_files_of_its_format(tmp_path):
    write(tmp_path / "run", {"a": np.ones(2)})
    assert read_rest(tmp_path / "run", "other") == {}
    assert read_rest(tmp_path / "run", "other", "library").keys() == {"a"}
    assert read_rest(tmp_path / "no run", "library") == {}


@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_damaged_origin_is_reported(content, tmp_path):
    write(tmp_path / "run", {"a": np.ones(2)})
    (tmp_path / "run/converted.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"converted\.json"):
        read_rest(tmp_path / "run", "library")


@pytest.mark.parametrize("dtype", ["float7", "object", "int64"])
def test_a_damaged_dtype_of_the_rest_is_reported(dtype, tmp_path):
    write(tmp_path / "run", {"a": np.ones(2)})
    (tmp_path / "run" / REST).write_bytes(save({"a": np.ones((1, 3), np.uint8)}, {"a": dtype}))
    with pytest.raises(CheckpointError, match=REST):
        read_rest(tmp_path / "run", "library")


def test_the_rest_has_the_permissions_of_the_other_files(tmp_path):
    write(tmp_path / "run", {"a": np.ones(2)})
    modes = {(tmp_path / "run" / name).stat().st_mode for name in (REST, CONFIG)}
    assert len(modes) == 1
