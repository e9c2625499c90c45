import dataclasses
import functools
import json

import numpy as np
import pytest
from PIL import Image

from experiments.engine.presets import Comparison, Experiment
from experiments.engine.runs import LoadedRun, RunType
from experiments.engine.tables.experiment import run_experiment
from experiments.engine.tables.spec import ExampleMetrics
from experiments.engine.tables.statistics import ExampleSums, means_of
from tests.experiments.engine.toy_spec import NARROW, WIDE, ToyConfig, toy_spec

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
