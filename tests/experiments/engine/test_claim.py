import pytest

from experiments.engine.claim import claimed
from experiments.engine.config import ConfigError
from experiments.engine.files import FolderError
from tests.experiments.engine import toy


def test_a_second_command_cannot_use_a_folder_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "run"
    with claimed(folder, toy.Config(), {}):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(FolderError, match=str(folder)):
            toy.run(folder, 4)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before
    toy.run(folder, 4)


def test_a_claim_that_fails_leaves_the_folder_free(tmp_path):
    toy.run(tmp_path, 4)
    with pytest.raises(ConfigError, match="note: 'toy' -> 'other'"):
        toy.run(tmp_path, 4, config=toy.Config(note="other"))
    toy.run(tmp_path, 6)


def test_a_run_cannot_continue_from_checkpoints_without_a_config(tmp_path):
    toy.run(tmp_path, 4)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=f"config.json.*{tmp_path}"):
        toy.run(tmp_path, 6)


def test_an_invalid_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(FolderError, match=f"folder.*{folder}"):
            toy.run(folder, 4)


def test_a_folder_that_orbax_cannot_use_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ConfigError, match=r"folder.*UTF-8.*run\\udcff"):
        toy.run(tmp_path / "run\udcff", 4)
    assert not any(tmp_path.iterdir())
