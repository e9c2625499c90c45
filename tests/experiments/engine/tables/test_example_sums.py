import dataclasses
import json

import numpy as np
import pytest

from experiments.data.errors import DataError
from experiments.engine.folders import Folders
from experiments.engine.runs import LoadedRun, RunType
from experiments.engine.tables.example_sums import EXAMPLES, complete_sums, read_sums
from experiments.engine.tables.spec import ExampleMetrics
from experiments.engine.tables.statistics import ExampleSums, means_of
from tests.experiments.engine.toy_spec import ToyConfig, toy_spec

ACCURACIES = np.array([0.0, 1.0, 1.0, 0.0])


@dataclasses.dataclass(frozen=True)
class FinishedRuns(RunType):
    """Runs whose newest readable checkpoint is of a given step."""

    step: int = 4

    def load(self, folder, checkpoint="newest"):
        return LoadedRun(ToyConfig(), {}, self.step)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs/toy/narrow-seed0"
    (folder / "checkpoints/4").mkdir(parents=True)
    evaluate(folder, 4)
    return folder


@pytest.fixture
def computed():
    """The runs whose sums were computed."""
    return []


def evaluate(folder, step, accuracy=0.5):
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": step, "eval/accuracy": accuracy}) + "\n")


def spec_of(computed, step=4, accuracies=ACCURACIES):
    def sums(run, folders):
        assert isinstance(folders, Folders)
        computed.append(run.step)
        found = {"accuracy": accuracies, "count": np.ones(4), "matrix": np.ones((4, 2, 2))}
        groups = ["sea", "mañana", "sea", "hills"]
        return ExampleSums(found, [0, 1, 3, 4], groups, "photographs", "All in Málaga.")

    metrics = lambda totals: {"accuracy": means_of(totals)["accuracy"]}  # noqa: E731
    runs = FinishedRuns(ToyConfig, lambda config: {}, "accuracy", step)
    return toy_spec(examples=ExampleMetrics(sums, metrics), run_type=runs)[0]


def test_sums_are_computed_once_and_kept_without_pickle(run, computed):
    assert read_sums(run) is None
    for _ in range(2):
        assert complete_sums(spec_of(computed), [run], Folders()) == {}
    assert computed == [4]
    found = read_sums(run)
    assert found.groups == ["sea", "mañana", "sea", "hills"]
    assert found.records == [0, 1, 3, 4]
    assert (found.kind, found.note) == ("photographs", "All in Málaga.")
    assert found.sums.keys() == {"accuracy", "count", "matrix"}
    np.testing.assert_array_equal(found.sums["accuracy"], ACCURACIES)
    assert found.sums["matrix"].shape == (4, 2, 2)
    with np.load(run / EXAMPLES, allow_pickle=False) as file:
        assert all(file[name].dtype != object for name in file.files)


def test_sums_of_another_state_are_computed_again(run, computed):
    complete_sums(spec_of(computed), [run], Folders())
    evaluate(run, 6)
    assert read_sums(run) is None
    (run / "checkpoints/6").mkdir()
    assert complete_sums(spec_of(computed, step=6), [run], Folders()) == {}
    assert computed == [4, 6]
    assert read_sums(run) is not None
    # A run of other weights may have as many steps.
    evaluate(run, 6, 0.501)
    assert read_sums(run) is None


def test_sums_of_a_run_that_is_trained_further_meanwhile_are_not_trusted(run, computed):
    spec = spec_of(computed)

    def sums(loaded, folders):
        # The next evaluation has nearly the same accuracy.
        evaluate(run, 6, 0.501)
        return spec.examples.sums(loaded, folders)

    examples = dataclasses.replace(spec.examples, sums=sums)
    complete_sums(dataclasses.replace(spec, examples=examples), [run], Folders())
    assert computed == [4]
    assert read_sums(run) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"PK\x03\x04",
        lambda content: b"x" * 100,
        lambda content: content[:-50],
        lambda content: content[:200].replace(content[100:110], b"x" * 10) + content[200:],
        lambda content: content.replace(b"groups", b"graups"),
    ],
)
def test_a_damaged_file_is_replaced(run, computed, damage):
    complete_sums(spec_of(computed), [run], Folders())
    (run / EXAMPLES).write_bytes(damage((run / EXAMPLES).read_bytes()))
    assert read_sums(run) is None
    complete_sums(spec_of(computed), [run], Folders())
    assert read_sums(run) is not None


def test_sums_that_were_written_need_no_checkpoint(run, computed):
    complete_sums(spec_of(computed), [run], Folders())
    (run / "checkpoints/4").rmdir()
    assert complete_sums(spec_of(computed), [run], Folders()) == {}
    (run / EXAMPLES).unlink()
    found = complete_sums(spec_of(computed), [run], Folders())
    assert "missing" in found[run]
    assert computed == [4]


def test_sums_of_an_older_checkpoint_are_not_used(run, computed):
    found = complete_sums(spec_of(computed, step=2), [run], Folders())
    assert "damaged" in found[run]
    assert computed == []


def test_sums_that_contradict_the_log_are_not_used(run, computed):
    other = np.array([0.0, 1.0, 0.0, 0.0])
    found = complete_sums(spec_of(computed, accuracies=other), [run], Folders())
    assert "accuracy" in found[run]
    assert not (run / EXAMPLES).exists()


def test_missing_data_is_a_reason(run, computed):
    def missing(run, folders):
        raise DataError("photographs are missing")

    spec = spec_of(computed)
    examples = dataclasses.replace(spec.examples, sums=missing)
    spec = dataclasses.replace(spec, examples=examples)
    assert complete_sums(spec, [run], Folders()) == {run: "photographs are missing"}


def test_a_folder_without_a_run_is_a_reason(tmp_path, computed):
    found = complete_sums(spec_of(computed), [tmp_path / "none"], Folders())
    assert "missing" in found[tmp_path / "none"]
