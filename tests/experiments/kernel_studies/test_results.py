import json
from pathlib import Path

import pytest

from experiments.engine.config import ConfigError
from experiments.engine.files import FolderError
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.table import Table
from experiments.kernel_studies.results import StudyFolder, name_of

RUNS = [Path("runs/carafe-seed0"), Path("runs/carafe-seed1")]
TABLES = [Table("title", ("a",), (("b",),))]
EVALUATION = EvaluationConfig(checkpoint="best", batch_size=4)


def write(folder, value):
    folder.check()
    folder.write({"value": value}, EVALUATION, TABLES, ["note"])


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "a/out", "kernel-sums", RUNS, "validation")


def test_a_default_folder_has_the_name_of_the_runs_without_seed(tmp_path, monkeypatch):
    assert name_of(RUNS) == "carafe"
    assert name_of([*RUNS, Path("c4-seed12/"), Path("my-run")]) == "carafe-c4-my-run"
    (tmp_path / "c4-seed2").mkdir()
    monkeypatch.chdir(tmp_path / "c4-seed2")
    assert name_of([Path()]) == "c4"


def test_the_same_study_replaces_its_results(folder, capsys):
    for value in (1, 2):
        write(folder, value)
    assert json.loads((folder.path / "results.json").read_text()) == {
        "study": "kernel-sums",
        "name": "carafe",
        "split": "validation",
        "evaluation": {"checkpoint": "best", "batch_size": 4, "devices": 4},
        "value": 2,
    }
    assert "note" in (folder.path / "table.md").read_text()
    assert f"results in {folder.path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("study", "runs", "split", "message"),
    [
        ("replace-kernels", RUNS, "validation", "study kernel-sums"),
        ("kernel-sums", [Path("c4-seed0")], "validation", "name carafe"),
        ("kernel-sums", RUNS, "train", "split validation"),
    ],
)
def test_the_results_of_another_study_are_not_replaced(folder, study, runs, split, message):
    write(folder, 1)
    other = StudyFolder(folder.path, study, runs, split)
    with pytest.raises(ConfigError, match=f"output .*out with results of .*{message}"):
        other.check()
    with pytest.raises(ConfigError, match="output"):
        other.write({}, EVALUATION, [], [])
    assert json.loads((folder.path / "results.json").read_text())["value"] == 1


@pytest.mark.parametrize("text", ['{"presets": {}}', "[]", "{"])
def test_the_results_of_a_table_are_not_replaced(folder, text):
    folder.path.mkdir(parents=True)
    (folder.path / "results.json").write_text(text)
    with pytest.raises(ConfigError, match=r"output .*out with other results"):
        folder.check()
    assert (folder.path / "results.json").read_text() == text


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, folder):
    (tmp_path / "a").write_text("")
    with pytest.raises(FolderError, match="a/out"):
        folder.check()
