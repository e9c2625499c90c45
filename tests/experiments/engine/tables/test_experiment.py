import dataclasses
import functools
import json
import statistics

import numpy as np
import pytest
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.engine.files import FolderError, locked
from experiments.engine.folders import Folders
from experiments.engine.presets import Comparison, Experiment
from experiments.engine.runs import LoadedRun, RunType
from experiments.engine.settings import Operation
from experiments.engine.tables.experiment import run_experiment
from experiments.engine.tables.spec import ExampleMetrics, Report, Row
from experiments.engine.tables.statistics import ExampleSums, means_of
from experiments.engine.tables.table import Table
from tests.experiments.engine.toy_spec import NARROW, WIDE, ToyConfig, evaluation_of, toy_spec


@pytest.fixture
def folders(tmp_path):
    return Folders(tmp_path / "data", tmp_path / "cache", tmp_path / "runs")


@pytest.fixture
def results(folders):
    """Returns a function that reads the JSON results and the Markdown of a table."""

    def read(name):
        output = folders.runs / "toy" / name
        return json.loads((output / "results.json").read_text()), (output / "table.md").read_text()

    return read


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


COMPARED = {
    "table1": Experiment(
        "Table 1", (NARROW, WIDE), comparisons=(Comparison("wide", "narrow", {"fps": 1.0}),)
    )
}


def examples_of(run, folders, photographs=20, first=0):
    """Two examples of each photograph; one in four is right, and twice as many in wide networks."""
    right = np.tile([1.0, 0.0, 0.0, run.config.width - 1.0], photographs // 2)
    sums = {"accuracy": right, "count": np.ones(2 * photographs)}
    groups = [str(number // 2) for number in range(2 * photographs)]
    records = range(first, first + 2 * photographs)
    return ExampleSums(sums, records, groups, "photographs", "Photographs are of one city.")


def finished_spec(seeds_without_checkpoints=(), sums=examples_of):
    """A spec whose runs are finished with checkpoints, and have sums of examples."""
    spec, trained = toy_spec(experiments=COMPARED)

    def train(config, folder, *rest):
        spec.train(config, folder, *rest)
        (folder / "finished.json").write_text("{}")
        if config.training.seed not in seeds_without_checkpoints:
            (folder / "checkpoints/4").mkdir(parents=True)
        # The accuracy over the examples.
        lines = [
            {"step": step, "eval/accuracy": accuracy}
            for step, accuracy in ((2, 0.2 * config.width), (4, 0.25 * config.width))
        ]
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(log)

    @dataclasses.dataclass(frozen=True)
    class Runs(RunType):
        def load(self, folder, checkpoint="newest"):
            return LoadedRun(self.load_config(folder), {}, 4)

    runs = Runs(ToyConfig, lambda config: {}, "accuracy")
    examples = ExampleMetrics(sums, means_of)
    changes = {"train": train, "run_type": runs, "examples": examples}
    return dataclasses.replace(spec, **changes), trained


def test_differences_have_intervals_over_seeds(folders, results, capsys):
    run_experiment(toy_spec(experiments=COMPARED)[0], "table1", (1, 4), folders)
    found, markdown = results("table1")
    (difference,) = found["differences"]
    assert (difference["preset"], difference["baseline"]) == ("wide", "narrow")
    assert difference["metrics"].keys() == {"accuracy"}
    accuracy = difference["metrics"]["accuracy"]
    assert accuracy["mean"] == pytest.approx(0.1)
    ends = [accuracy["seeds"]["low"], accuracy["seeds"]["high"]]
    assert ends == pytest.approx([0.1, 0.1])
    assert accuracy["groups"] is None
    assert "Differences in accuracy, %:" in markdown
    (line,) = [line for line in markdown.splitlines() if line.startswith("| Wide | Narrow |")]
    assert line == "| Wide | Narrow | +10.0 | +10.0 to +10.0 |"
    assert "| | minus | difference | over seeds |" in markdown.replace("|  |", "| |")
    for text in (markdown, capsys.readouterr().out):
        assert "trained again on the same images" in text
        assert "other images" not in text


def test_one_seed_has_no_interval_over_seeds(folders, results):
    run_experiment(toy_spec(experiments=COMPARED)[0], "table1", (1,), folders)
    found, markdown = results("table1")
    assert found["differences"][0]["metrics"]["accuracy"]["seeds"] is None
    assert "| Wide | Narrow | +10.0 |" in markdown
    assert "over seeds" not in markdown


def test_differences_have_intervals_over_groups_of_examples(folders, results):
    spec, _ = finished_spec()
    run_experiment(spec, "table1", (1, 4), folders)
    found, markdown = results("table1")
    (difference,) = found["differences"]
    assert (difference["groups"], difference["kind_of_groups"]) == (20, "photographs")
    accuracy = difference["metrics"]["accuracy"]
    groups = accuracy["groups"]
    assert groups["mean"] == pytest.approx(accuracy["mean"])
    # Every second photograph differs by 0.5. The ends are 2.5 % quantiles of a binomial number.
    assert (groups["low"], groups["high"]) == pytest.approx((6 / 40, 14 / 40))
    assert "| +25.0 | +25.0 to +25.0 | +15.0 to +35.0 |" in markdown
    assert "over 20 photographs" in markdown
    assert "other images with the same networks" in markdown
    assert markdown.count("Photographs are of one city.") == 1
    assert "No interval" not in markdown
    assert (folders.runs / "toy/narrow-seed1/examples.npz").exists()


@pytest.mark.parametrize(("photographs", "too_narrow"), [(20, True), (28, True), (30, False)])
def test_a_note_says_that_intervals_over_few_groups_are_too_narrow(
    folders, results, photographs, too_narrow
):
    sums = functools.partial(examples_of, photographs=photographs)
    run_experiment(finished_spec(sums=sums)[0], "table1", (1,), folders)
    assert ("too narrow: they cover the mean in about 92 %" in results("table1")[1]) == too_narrow


def test_two_photographs_have_no_interval_and_a_note_says_why(folders, results):
    sums = functools.partial(examples_of, photographs=2)
    run_experiment(finished_spec(sums=sums)[0], "table1", (1, 4), folders)
    found, markdown = results("table1")
    assert found["differences"][0]["metrics"]["accuracy"]["groups"] is None
    assert "over photographs" not in markdown
    assert "No interval over groups of images: 2 photographs are too few" in markdown
    assert "fewer than 10 groups" in markdown


def test_rows_of_different_examples_have_no_interval_and_a_note_says_why(folders, results):
    def sums(run, folders):
        # Both rows lost an image of the same photograph, but not the same image.
        return examples_of(run, folders, first=run.config.width)

    run_experiment(finished_spec(sums=sums)[0], "table1", (1,), folders)
    found, markdown = results("table1")
    assert found["differences"][0]["metrics"]["accuracy"]["groups"] is None
    assert "Wide minus Narrow: the runs were evaluated on different images" in markdown


def test_metrics_that_are_not_finite_have_no_interval_and_a_note_says_why(folders, results):
    spec, _ = finished_spec()
    metrics = lambda totals: {"accuracy": np.full(len(totals["count"]), np.nan)}  # noqa: E731
    # The sums of the runs exist, and only the intervals are computed.
    run_experiment(spec, "table1", (1,), folders)
    changed = dataclasses.replace(spec, examples=ExampleMetrics(examples_of, metrics))
    run_experiment(changed, "table1", (1,), folders)
    found, markdown = results("table1")
    assert (found["differences"][0]["groups"], "over photographs" in markdown) == (0, False)
    assert "Wide minus Narrow: no metric is finite in all resamples" in markdown


def test_a_run_that_another_command_finished_without_sums_is_named(folders, results):
    spec, _ = finished_spec()

    def train(config, *rest):
        if config.training.seed == 4 and config.width == 2:
            run_experiment(spec, "table1", (1,), folders)
        return spec.train(config, *rest)

    def lose_sums(run, given):
        # The last run of this command; another one loses sums that were complete before.
        if run.config.training.seed == 4 and run.config.width == 2:
            (folders.runs / "toy/narrow-seed1/examples.npz").unlink()
        return examples_of(run, given)

    examples = ExampleMetrics(lose_sums, means_of)
    changed = dataclasses.replace(spec, train=train, examples=examples)
    run_experiment(changed, "table1", (4,), folders)
    found, markdown = results("table1")
    assert found["seeds"] == [1, 4]
    assert found["differences"][0]["metrics"]["accuracy"]["groups"] is None
    assert "narrow-seed1: the sums of its last evaluation are missing" in markdown


def test_without_checkpoints_a_table_has_no_interval_over_groups_and_says_so(folders, results):
    spec, _ = finished_spec(seeds_without_checkpoints=(4,))
    run_experiment(spec, "table1", (1, 4), folders)
    found, markdown = results("table1")
    accuracy = found["differences"][0]["metrics"]["accuracy"]
    assert accuracy["groups"] is None
    assert accuracy["seeds"] is not None
    assert "No interval over groups of images" in markdown
    assert "wide-seed4: the checkpoint of its last evaluation is missing" in markdown
    assert "seed1:" not in markdown


def test_a_table_is_made_again_with_another_seed_and_without_training(folders, results):
    spec, trained = finished_spec()
    for seeds in ((1,), (4, 7)):
        run_experiment(spec, "table1", seeds, folders)
    trained.clear()
    computed = []

    def none(run, folders):
        computed.append(run)

    spec = dataclasses.replace(spec, examples=ExampleMetrics(none, means_of))
    run_experiment(spec, "table1", (1,), folders)
    found, markdown = results("table1")
    assert found["seeds"] == [1, 4, 7]
    assert found["differences"][0]["metrics"]["accuracy"]["groups"] is not None
    assert "seeds 1, 4, 7" in markdown
    assert not trained
    assert not computed


def test_the_papers_difference_is_given_or_follows_from_the_scores(folders, results):
    paper = dataclasses.replace(WIDE, paper={"accuracy": 13.5})
    pairs = (Comparison("wide", "narrow"), Comparison("narrow", "wide", {"accuracy": 7.0}))
    experiments = {"table1": Experiment("Table 1", (NARROW, paper), comparisons=pairs)}
    run_experiment(toy_spec(experiments=experiments)[0], "table1", (1,), folders)
    found, markdown = results("table1")
    assert "| Wide | Narrow | +10.0 | +1.2 |" in markdown
    assert "| Narrow | Wide | -10.0 | +7.0 |" in markdown
    assert found["differences"][0]["paper"]["accuracy"] == pytest.approx(1.2)


def test_figures_of_metrics_and_of_differences_over_the_training(folders):
    spec, _ = finished_spec()
    run_experiment(spec, "table1", (1, 4), folders)
    for name in ("curves.png", "differences.png"):
        with Image.open(folders.runs / "toy/table1" / name) as picture:
            assert np.asarray(picture).std() > 10
