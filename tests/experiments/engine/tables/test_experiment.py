import dataclasses
import statistics

import pytest

from experiments.engine.config import ConfigError
from experiments.engine.files import FolderError, locked
from experiments.engine.presets import Experiment
from experiments.engine.settings import Operation
from experiments.engine.tables.experiment import run_experiment
from experiments.engine.tables.spec import Report, Row
from experiments.engine.tables.table import Table
from tests.experiments.engine.toy_spec import NARROW, WIDE, evaluation_of, toy_spec


def row_of(markdown, name):
    (line,) = [line for line in markdown.splitlines() if line.startswith(f"| {name} |")]
    return [entry.strip() for entry in line.strip("|").split("|")]


def test_every_row_is_trained_with_every_seed_in_its_own_folder(folders):
    spec, trained = toy_spec()
    run_experiment(spec, "table1", (1, 4), folders, Operation(log_every=3))
    runs = [("narrow", 1), ("narrow", 4), ("wide", 1), ("wide", 4)]
    assert [(folder, config.training.seed) for config, folder, *_ in trained] == [
        (folders.runs / "toy" / f"{name}-seed{seed}", seed) for name, seed in runs
    ]
    assert all(rest == [folders, Operation(log_every=3)] for _, _, *rest in trained)


def test_a_table_has_means_deviations_costs_and_the_papers_scores(folders, results, capsys):
    spec, _ = toy_spec()
    run_experiment(spec, "table1", (1, 4), folders)
    found, markdown = results("table1")
    wide = found["presets"]["wide"]
    values = [0.21, 0.24]
    assert wide["metrics"]["accuracy"]["mean"] == pytest.approx(statistics.mean(values))
    assert wide["metrics"]["accuracy"]["deviation"] == pytest.approx(statistics.stdev(values))
    assert wide["runs"]["4"] == pytest.approx(evaluation_of(WIDE.config.with_training(seed=4)))
    assert (wide["parameters"], wide["flops"]) == (64_000, 4_000_000_000)
    assert found["presets"]["narrow"]["paper"] == {"accuracy": 12.3, "fps": 4.5}
    # Only the paper has a speed, and the loss is a detail.
    headings = ["", "parameters", "GFLOP", "accuracy, %", "of small ones, %", "paper"]
    assert row_of(markdown, "") == headings
    assert row_of(markdown, "Narrow") == [
        *("Narrow", "32,000", "2", "12.5 ± 2.1", "6.2 ± 1.1", "accuracy 12.3 %, 4.5 fps")
    ]
    assert row_of(markdown, "Wide")[-1] == "none: too wide"
    assert "seeds 1, 4" in markdown
    assert "sample standard deviation" in markdown
    assert "12.5 ± 2.1" in capsys.readouterr().out


def test_one_seed_has_no_deviation_and_a_note_says_so(folders, results, capsys):
    run_experiment(toy_spec()[0], "table1", (2,), folders)
    found, markdown = results("table1")
    assert found["presets"]["narrow"]["metrics"]["accuracy"]["deviation"] is None
    assert row_of(markdown, "Narrow")[3] == "12.0"
    for text in (found["note"], markdown, capsys.readouterr().out):
        assert "One seed does not rank" in text


def test_seeds_and_operation_default_to_those_of_the_experiment(folders):
    spec, trained = toy_spec()
    run_experiment(spec, "table2", folders=folders)
    assert [config.training.seed for config, *_ in trained] == [0, 1, 0, 1]
    assert trained[0][-1] == Operation(log_every=7)
    own = Experiment("Own", (NARROW,), operation=Operation(log_every=2))
    spec, trained = toy_spec(experiments={"own": own})
    run_experiment(spec, "own", folders=folders)
    assert trained[0][-1] == Operation(log_every=2)


def test_equal_configs_of_several_tables_are_one_run(folders, results):
    spec, trained = toy_spec()
    run_experiment(spec, "table1", (0,), folders)
    run_experiment(spec, "table2", (0,), folders)
    folders_of_runs = [folder.name for _, folder, *_ in trained]
    # A finished run is not trained again; it is named after the first preset.
    assert folders_of_runs == ["narrow-seed0", "wide-seed0", "narrow-seed0", "wide-seed0"]
    assert row_of(results("table2")[1], "Narrow again")[3] == "10.0"


def test_later_seeds_are_added_to_the_results(folders, results):
    spec, trained = toy_spec()
    run_experiment(spec, "table1", (4,), folders)
    trained.clear()
    run_experiment(spec, "table1", (1,), folders)
    assert {config.training.seed for config, *_ in trained} == {1}
    found, markdown = results("table1")
    assert found["seeds"] == [1, 4]
    assert row_of(markdown, "Narrow")[3] == "12.5 ± 2.1"
    assert "seeds 1, 4" in markdown


def test_seeds_that_another_call_finished_meanwhile_are_kept(folders, results):
    spec, _ = toy_spec()

    def train(config, *rest):
        if config.training.seed == 4 and config.width == 2:
            run_experiment(spec, "table1", (1,), folders)
        spec.train(config, *rest)

    run_experiment(dataclasses.replace(spec, train=train), "table1", (4,), folders)
    assert results("table1")[0]["seeds"] == [1, 4]


def test_a_run_of_converted_weights_cannot_be_a_row(folders):
    spec, trained = toy_spec()
    folder = folders.runs / "toy/wide-seed1"
    folder.mkdir(parents=True)
    (folder / "converted.json").write_text("{}")
    with pytest.raises(ConfigError, match=f"wide.*{folder}"):
        run_experiment(spec, "table1", (0, 1), folders)
    assert not trained
    run_experiment(spec, "table1", (0,), folders)


def test_a_finished_run_is_not_claimed_again(folders, results):
    spec, trained = toy_spec()
    run_experiment(spec, "table1", (0,), folders)
    (folders.runs / "toy/wide-seed0/finished.json").write_text("{}")
    trained.clear()
    run_experiment(spec, "table1", (0,), folders)
    assert [folder.name for _, folder, *_ in trained] == ["narrow-seed0"]
    assert results("table1")[0]["presets"]["wide"]["runs"].keys() == {"0"}
    # With another config it is claimed, and the training reports the difference.
    prepare = lambda config, *_: dataclasses.replace(config, side=64)  # noqa: E731
    changed, trained = toy_spec(prepare_config=prepare)
    run_experiment(changed, "table1", (0,), folders)
    assert [folder.name for _, folder, *_ in trained] == ["narrow-seed0", "wide-seed0"]


def test_a_row_shows_the_first_complete_run(tmp_path):
    folders = {seed: tmp_path / str(seed) for seed in range(4)}
    for seed in (0, 2, 3):
        (folders[seed] / "checkpoints/4").mkdir(parents=True)
    for seed in (1, 2, 3):
        folders[seed].mkdir(exist_ok=True)
        (folders[seed] / "finished.json").write_text("{}")
    assert Row(NARROW, None, folders, {}).run == folders[2]


def test_a_run_whose_log_has_no_evaluation_is_named(folders):
    spec, _ = toy_spec(train=lambda config, folder, *rest: None)
    with pytest.raises(ConfigError, match=r"narrow-seed0/metrics\.jsonl.* \[\]"):
        run_experiment(spec, "table1", (0,), folders)


def test_earlier_results_of_another_config_are_left_out_of_the_table(folders, results):
    spec, _ = toy_spec()
    run_experiment(spec, "table1", (4,), folders)
    changed = dataclasses.replace(WIDE, config=dataclasses.replace(WIDE.config, side=64))
    experiments = {"table1": Experiment("Table 1", (NARROW, changed))}
    spec, _ = toy_spec(experiments=experiments, presets=(NARROW, changed))
    run_experiment(spec, "table1", (1,), folders)
    found, markdown = results("table1")
    assert found["seeds"] == [1]
    assert row_of(markdown, "Narrow")[3] == "11.0"
    # Nothing is lost: a later call with this seed shows both rows again.
    assert found["presets"]["narrow"]["runs"].keys() == {"1", "4"}
    assert found["presets"]["wide"]["runs"].keys() == {"1"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"presets": []}',
        '{"presets": {"narrow": {}}}',
        '{"presets": {"narrow": 3}}',
        '{"presets": {"narrow": {"config": {}, "runs": {"0": {"accuracy": "x"}}}}}',
        '{"presets": {"narrow": {"config": {}, "runs": {"0": {"accuracy": null}}}}}',
        '{"presets": {"narrow": {"config": {}, "runs": {"0": {"accuracy": true}}}}}',
        '{"presets": {"narrow": {"config": {}, "runs": {"0": {"accuracy": 1e999}}}}}',
        '{"presets": {"narrow": {"config": {}, "runs": {"0": {"accuracy": 1' + "0" * 400 + "}}}}}",
        '{"presets": {"narrow": {"config": {}, "runs": {" 0_0": {"accuracy": 1}}}}}',
        '{"presets": {}, "presets": {}}',
        "[" * 100_000,
    ],
)
def test_results_that_cannot_be_read_are_named_before_anything_is_trained(folders, text):
    path = folders.runs / "toy/table1/results.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    spec, trained = toy_spec()
    with pytest.raises(ConfigError, match=r"table1/results\.json"):
        run_experiment(spec, "table1", (1,), folders)
    assert not trained


@pytest.mark.parametrize("seeds", [(), (1, 1), (4, -1)])
def test_seeds_must_be_given_and_differ(folders, seeds):
    spec, trained = toy_spec()
    with pytest.raises(ConfigError, match="seeds"):
        run_experiment(spec, "table1", seeds, folders)
    assert not trained


def test_missing_weights_of_a_row_are_reported_before_the_first_row_is_trained(folders):
    def prepare(config, folder, given):
        if config.width == 2:
            raise ConfigError(f"{folder.name} needs a backbone")
        return config

    spec, trained = toy_spec(prepare_config=prepare)
    with pytest.raises(ConfigError, match="wide-seed3"):
        run_experiment(spec, "table1", (3,), folders)
    assert not trained


def test_a_metric_that_one_run_does_not_have_is_not_averaged(folders, results):
    spec, _ = toy_spec()

    def train(config, folder, *rest):
        spec.train(config, folder, *rest)
        if config.training.seed == 1:
            path = folder / "metrics.jsonl"
            path.write_text(path.read_text().replace("eval/accuracy/small", "other"))

    run_experiment(dataclasses.replace(spec, train=train), "table1", (0, 1), folders)
    found, markdown = results("table1")
    assert "accuracy/small" not in found["presets"]["narrow"]["metrics"]
    assert found["presets"]["narrow"]["runs"]["0"]["accuracy/small"] == 0.05
    assert "of small ones" not in markdown
    assert row_of(markdown, "Narrow")[3] == "10.5 ± 0.7"


def test_a_task_trains_the_prepared_config_and_adds_to_the_report(folders, results, capsys):
    seen = []

    def report(rows, output, given):
        # The lock prevents another call from writing results between reading and writing.
        with pytest.raises(FolderError), locked(output, wait=False):
            pass
        seen.append(([row.folders for row in rows], output, given))
        more = Table("More", ("", "width"), tuple((row.preset.row, "7") for row in rows))
        return Report((more,), ("A note.",), {"wide": {"gain": 3}}, ("A hint.",))

    spec, trained = toy_spec(
        prepare_config=lambda config, *_: dataclasses.replace(config, side=99), report=report
    )
    run_experiment(spec, "table1", (5, 6), folders)
    assert {config.side for config, *_ in trained} == {99}
    runs = folders.runs / "toy"
    of_rows = [
        {seed: runs / f"{name}-seed{seed}" for seed in (5, 6)} for name in ("narrow", "wide")
    ]
    assert seen == [(of_rows, runs / "table1", folders)]
    found, markdown = results("table1")
    assert found["presets"]["wide"]["gain"] == 3
    assert "| Wide | 7 |" in markdown
    assert "A note." in markdown
    assert "A hint." not in markdown
    assert "A hint." in capsys.readouterr().out
