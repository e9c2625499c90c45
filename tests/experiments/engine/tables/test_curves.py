import numpy as np
import pytest
from PIL import Image

from experiments.engine.presets import Comparison, Metric
from experiments.engine.tables import curves
from experiments.engine.tables.curves import save_difference_curves, save_training_curves
from experiments.engine.tables.statistics import seed_interval

METRICS = (
    Metric("top1", "top-1", "%", factor=100),
    Metric("hole", "hole PSNR", "dB", place="column", compared=True),
    Metric("ssim", "SSIM", place="column"),
    Metric("share", "share", "%", place="detail"),
)
STEPS = (100, 200, 300)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved; they are still written."""
    found, save = [], curves.save_figure

    def save_and_keep(figure, path):
        found.append(figure)
        save(figure, path)

    monkeypatch.setattr(curves, "save_figure", save_and_keep)
    return found


def log(seed, gain=0.0, steps=STEPS, names=("top1", "hole", "ssim", "share")):
    rng = np.random.default_rng(seed)
    training = [{"step": n, "loss": 1 / n, "late": None} for n in range(1, 200)]
    values = [(step, float(rng.random()) + gain) for step in steps]
    return training + [
        {
            "step": step,
            **{f"eval/{name}": value for name, value in zip(names, [value] * 4, strict=False)},
        }
        for step, value in values
    ]


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes if axes.axison}


def test_a_panel_for_each_metric_has_thin_lines_for_seeds_and_a_thick_mean(tmp_path, figures):
    logs = {"plain": {seed: log(seed) for seed in (3, 5)}, "carafe": {3: log(7), 5: log(8)}}
    save_training_curves(tmp_path / "curves.png", logs, METRICS, {"loss": "training: loss"})
    (figure,) = figures
    found = panels(figure)
    assert [*found] == ["training: loss", "top-1", "hole PSNR", "SSIM"]
    axes = found["top-1"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("training step", "%")
    one, two, mean = (line.get_xydata() for line in axes.lines[:3])
    evaluations = [[line["eval/top1"] for line in log(seed)[-3:]] for seed in (3, 5)]
    np.testing.assert_allclose(one, np.stack([STEPS, 100 * np.array(evaluations[0])], -1))
    np.testing.assert_allclose(mean, (one + two) / 2)
    thin, _, thick, *others = axes.lines
    assert thin.get_linewidth() < thick.get_linewidth()
    assert thin.get_color() == thick.get_color() != others[0].get_color()
    # Many values of the training are averaged over neighbours.
    assert len(found["training: loss"].lines[0].get_xdata()) == 39
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["plain", "carafe"]
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture).std() > 10


def test_a_metric_that_was_evaluated_once_is_not_drawn(tmp_path, figures):
    logs = {"plain": {0: log(0, steps=(300,))}}
    save_training_curves(tmp_path / "curves.png", logs, METRICS, {"loss": "loss", "none": "none"})
    assert [*panels(figures[0])] == ["loss"]
    save_training_curves(tmp_path / "other.png", logs, METRICS, {})
    assert not (tmp_path / "other.png").exists()


def test_more_rows_than_colours_have_other_lines(tmp_path, figures):
    logs = {f"row {number}": {0: log(number)} for number in range(9)}
    save_training_curves(tmp_path / "curves.png", logs, METRICS, {})
    styles = [
        (line.get_color(), line.get_linestyle()) for line in figures[0].legends[0].get_lines()
    ]
    assert len({*styles}) == 9


def test_differences_are_drawn_over_pairs_of_runs_with_intervals(tmp_path, figures):
    # The evaluation of step 300 is missing from one run.
    logs = {
        "a": {1: log(1, 0.5), 2: log(2, 0.5), 3: log(3, 0.6)},
        "b": {3: log(3, steps=(100, 200)), 2: log(2), 1: log(1)},
    }
    names = {"a": "Ours", "b": "Theirs"}
    comparisons = (Comparison("a", "b"),)
    save_difference_curves(tmp_path / "d.png", logs, names, comparisons, METRICS)
    (figure,) = figures
    found = panels(figure)
    assert [*found] == ["difference in top-1", "difference in hole PSNR"]
    axes = found["difference in top-1"]
    assert axes.get_ylabel() == "%"
    zero, mean, low, high = axes.lines
    assert [*zero.get_ydata()] == [0, 0]
    assert [*mean.get_xdata()] == [100, 200]
    expected = seed_interval([50.0, 50.0, 60.0])
    for line, value in ((mean, expected.mean), (low, expected.low), (high, expected.high)):
        np.testing.assert_allclose(line.get_ydata(), [value] * 2)
    assert figure.legends[0].get_texts()[0].get_text() == "Ours minus Theirs"
    assert (tmp_path / "d.png").exists()


def test_differences_of_one_seed_have_no_band_but_a_line(tmp_path, figures):
    logs = {"a": {1: log(1, 0.5)}, "b": {1: log(1)}}
    comparisons = (Comparison("a", "b"),)
    save_difference_curves(tmp_path / "d.png", logs, {"a": "A", "b": "B"}, comparisons, METRICS)
    *_, mean, low, _ = panels(figures[0])["difference in hole PSNR"].lines
    np.testing.assert_allclose(mean.get_ydata(), [0.5] * 3)
    np.testing.assert_allclose(low.get_ydata(), [0.5] * 3)


@pytest.mark.parametrize("comparisons", [(), (Comparison("a", "b"),)])
def test_without_differences_over_time_there_is_no_figure(tmp_path, comparisons):
    logs = {"a": {1: log(1, steps=(300,))}, "b": {2: log(1)}}
    save_difference_curves(tmp_path / "d.png", logs, {"a": "A", "b": "B"}, comparisons, METRICS)
    assert not (tmp_path / "d.png").exists()
