"""Tests the files of runs that were converted from weights."""

import errno
from pathlib import Path

import numpy as np
import pytest

from experiments.engine import converted_runs
from experiments.engine.config import ConfigError
from experiments.engine.converted_runs import write_converted_run
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
