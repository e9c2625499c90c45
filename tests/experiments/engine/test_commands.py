"""Tests the shared commands of tasks through the command line, in this process."""

import dataclasses
import sys
from pathlib import Path

import pytest

from experiments.engine.command_line import run_command
from experiments.engine.commands import task_commands
from experiments.engine.folders import Folders
from tests.experiments.engine.toy_spec import WIDE, toy_spec


@pytest.fixture
def call(monkeypatch, capsys):
    """Calls the program of a task; returns its exit code and its output."""

    def call(spec, *arguments):
        monkeypatch.setattr(sys, "argv", ["toy", *map(str, arguments)])
        code = 0
        try:
            run_command("toy", task_commands(spec.catalogue, lambda: spec))
        except SystemExit as exit_:
            code = exit_.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_preset_is_trained_in_its_own_folder_unless_another_is_named(call, tmp_path):
    spec, trained = toy_spec()
    arguments = ("--runs", tmp_path, "--data-dir", "sets", "--cache", "files")
    code, _, error = call(spec, "train", "wide", *arguments, "--training.seed", 7)
    assert code == 0, error
    ((config, folder, folders, operation),) = trained
    assert config == WIDE.config.with_training(seed=7)
    assert folder == tmp_path / "toy/wide-seed7"
    assert folders == Folders(Path("sets"), Path("files"), tmp_path)
    assert operation == spec.catalogue.operation
    trained.clear()
    assert call(spec, "train", "same", "--output", tmp_path / "own", "--side", 8)[0] == 0
    ((config, folder, *_),) = trained
    assert (config.side, folder) == (8, tmp_path / "own")


def test_a_preset_is_trained_as_its_task_prepares_it(call, tmp_path):
    prepare = lambda config, *_: dataclasses.replace(config, side=99)  # noqa: E731
    spec, trained = toy_spec(prepare_config=prepare)
    assert call(spec, "train", "wide", "--runs", tmp_path)[0] == 0
    ((config, folder, *_),) = trained
    assert (config.side, folder) == (99, tmp_path / "toy/wide-seed0")


def test_equal_presets_share_their_folder_and_changed_ones_need_another(call, tmp_path):
    spec, trained = toy_spec()
    assert call(spec, "train", "same", "--runs", tmp_path)[0] == 0
    assert trained[0][1] == tmp_path / "toy/narrow-seed0"
    code, _, error = call(spec, "train", "wide", "--runs", tmp_path, "--side", 8)
    assert code == 2
    assert "output must be given" in error
    assert len(trained) == 1


def test_a_table_is_trained_with_the_seeds_that_are_named(call, tmp_path):
    spec, trained = toy_spec()
    code, printed, error = call(
        *(spec, "table2", "--seeds", 4, 5, "--runs", tmp_path, "--operation.log-every", 9)
    )
    assert code == 0, error
    names = ["narrow-seed4", "narrow-seed5", "wide-seed4", "wide-seed5"]
    assert [folder.name for _, folder, *_ in trained] == names
    assert trained[0][-1].log_every == 9
    assert "Narrow again" in printed


def test_a_dry_run_trains_nothing(call):
    spec, trained = toy_spec()
    code, printed, error = call(spec, "table1", "--dry-run")
    assert code == 0, error
    assert "32,000" in printed
    assert "images/s" not in printed
    code, printed, _ = call(spec, "table1", "--time-steps", "--batch-size", 4)
    assert (code, "images/s" in printed) == (0, True)
    assert not trained


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--batch-size", 4], "batch_size"),
        (["--dtype", "bfloat16"], "dtype"),
        (["--shorter-side", 16], "shorter_side"),
        (["--dry-run", "--batch-size", 4], "batch_size"),
        (["--dry-run", "--seeds", 9], "seeds"),
        (["--time-steps", "--seeds", 9], "seeds"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else value,
)
def test_options_without_effect_are_refused(call, tmp_path, arguments, name):
    spec, trained = toy_spec()
    code, printed, error = call(spec, "table1", "--runs", tmp_path, *arguments)
    assert code == 2
    assert name in error
    assert not printed
    assert not trained


@pytest.mark.parametrize("batch_size", [0, -4, 2])
def test_a_batch_that_cannot_be_timed_is_refused(call, batch_size):
    code, printed, error = call(toy_spec()[0], "table1", "--time-steps", "--batch-size", batch_size)
    assert code == 2
    assert f"got {batch_size}" in error
    assert not printed


def test_help_names_command_scores_and_fields_and_not_the_task(call):
    spec, _ = toy_spec()
    code, printed, _ = call(spec, "train", "narrow", "--help")
    assert code == 0
    text = " ".join(printed.split())
    assert "python -m experiments.toy train narrow" in text
    assert "Paper: accuracy 12.3 %, 4.5 fps." in text
    assert "Measured: not run yet." in text
    assert "--width" in text
    assert "--task" not in text
