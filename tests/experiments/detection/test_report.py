import dataclasses
import json
import statistics

import pytest
from experiments.detection.report import run_experiment, summarize

from experiments.detection import report
from experiments.engine.config import ConfigError
from experiments.engine.cost import Cost
from experiments.engine.presets import Preset
from experiments.engine.settings import Operation
from tests.experiments.detection.tiny import TINY

CARAFE = dataclasses.replace(
    TINY,
    model=dataclasses.replace(
        TINY.model, neck=dataclasses.replace(TINY.model.neck, upsampler="carafe")
    ),
)
PRESETS = (Preset("tiny", "Tiny", TINY, "none"), Preset("tiny-carafe", "CARAFE++", CARAFE, "none"))


def metrics(box, mask):
    return {"box_AP": box, "box/AP50": 0.5, "box/AP75": 0.25, "mask_AP": mask, "mask/AP50": 0.125}


@pytest.fixture
def trained(monkeypatch):
    """What runs are asked for; their AP depends on seed and upsampler."""
    asked = []

    def train_run(config, folder, *rest):
        asked.append((config, folder, rest))
        folder.mkdir(parents=True, exist_ok=True)
        box = 0.3 + config.training.seed / 100
        box += 0.02 * (config.model.neck.upsampler == "carafe")
        lines = [
            {"step": 1, "loss": 1.0},
            {"step": 2, **{f"eval/{name}": 0.9 for name in metrics(0, 0)}},
            {"step": 4, **{f"eval/{name}": ap for name, ap in metrics(box, box / 2).items()}},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)

    monkeypatch.setattr(report, "train_run", train_run)
    monkeypatch.setattr(report, "cost_of", lambda config: Cost(12_345, 6_780_000_000))
    return asked


def row_of(table, name):
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_preset_is_trained_with_every_seed_and_means_and_spreads_are_written(
    trained, tmp_path, capsys
):
    operation = Operation(log_every=3)
    rest = tmp_path / "data", operation, tmp_path / "cache"
    run_experiment(PRESETS, (1, 4), tmp_path / "output", *rest)
    names = ["tiny-seed1", "tiny-seed4", "tiny-carafe-seed1", "tiny-carafe-seed4"]
    assert [folder.name for _, folder, _ in trained] == names
    assert [config.training.seed for config, _, _ in trained] == [1, 4, 1, 4]
    assert all(handed == rest for _, _, handed in trained)

    found = json.loads((tmp_path / "output/results.json").read_text())
    assert "sample standard deviation" in found["note"]
    tiny, carafe = (found["presets"][preset.name] for preset in PRESETS)
    assert tiny["runs"]["4"] == pytest.approx(metrics(0.34, 0.17))
    assert (tiny["parameters"], tiny["flops"]) == (12_345, 6_780_000_000)
    values = [0.33, 0.36]
    assert carafe["metrics"]["box_AP"]["mean"] == pytest.approx(statistics.mean(values))
    assert carafe["metrics"]["box_AP"]["deviation"] == pytest.approx(statistics.stdev(values))

    table = (tmp_path / "output/table.md").read_text()
    assert row_of(table, "CARAFE++") == [
        *("CARAFE++", "12,345", "6.78", "34.5 ± 2.1", "50.0 ± 0.0", "25.0 ± 0.0"),
        *("17.2 ± 1.1", "12.5 ± 0.0", ""),
    ]
    assert "seeds 1, 4" in table
    assert "34.5 ± 2.1" in capsys.readouterr().out


def test_one_seed_has_no_spread_and_ranks_nothing(trained, tmp_path, capsys):
    run_experiment(PRESETS[:1], (2,), tmp_path, tmp_path, Operation())
    found = json.loads((tmp_path / "results.json").read_text())
    assert "One seed ranks nothing" in found["note"]
    assert found["presets"]["tiny"]["metrics"]["box_AP"]["deviation"] is None
    table = (tmp_path / "table.md").read_text()
    assert row_of(table, "Tiny")[3:5] == ["32.0", "50.0"]
    assert "One seed ranks nothing" in table
    assert "One seed ranks nothing" in capsys.readouterr().out


@pytest.mark.parametrize("seeds", [(), (1, 1)])
def test_seeds_must_be_there_and_differ(trained, tmp_path, seeds):
    with pytest.raises(ConfigError, match="seeds must be one or more, all different"):
        run_experiment(PRESETS, seeds, tmp_path, tmp_path, Operation())
    assert not trained


def test_a_metric_that_one_run_does_not_have_is_not_averaged():
    whole = metrics(0.5, 0.25)
    part = {name: value for name, value in whole.items() if name != "mask/AP50"}
    table, results = summarize(PRESETS[:1], (0, 1), {"tiny": [whole, part]})
    assert "mask/AP50" not in results["tiny"]["metrics"]
    assert results["tiny"]["runs"]["0"]["mask/AP50"] == 0.125
    assert table.rows[0][-2:] == ("", "")
    assert table.rows[0][3] == "50.0 ± 0.0"
    assert len(table.rows[0]) == len(table.headings)
