import dataclasses
import io
import itertools
import json
from pathlib import Path

import pytest
from rich.console import Console

from experiments.classification.presets import PRESETS as CLASSIFIERS
from experiments.detection import tables
from experiments.detection.presets import TABLES
from experiments.detection.tables import backbone_name, cost_of, dry_run, run_name, run_table
from experiments.engine.config import ConfigError
from experiments.engine.presets import Preset
from experiments.engine.settings import Operation
from tests.experiments.detection.tiny import TINY

PRESET = Preset("tiny", "Table 0, tiny", TINY, "box AP 12.3, mask AP 4.5")


def cells_of(console, row):
    (line,) = [line for line in console.file.getvalue().splitlines() if row in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.mark.slow
def test_a_dry_run_tells_what_a_row_costs():
    console = Console(file=io.StringIO(), width=180)
    dry_run(console, "table0", (PRESET,), batch_size=4)
    assert "table0: 4 images of 64 x 64 a step" in console.file.getvalue()
    cells = cells_of(console, "Table 0")
    assert cells[1] == f"{cost_of(TINY).parameters:,}"
    assert float(cells[2]) > 0
    assert float(cells[3]) > float(cells[5]) > 0  # a training step is longer than inference
    for milliseconds, rate in ((cells[3], cells[4]), (cells[5], cells[6])):
        assert float(rate) == pytest.approx(4000 / float(milliseconds), rel=0.1)
    assert cells[7:] == ["1.00", "box AP 12.3, mask AP 4.5"]


def test_speed_is_given_as_a_share_of_the_first_row(monkeypatch):
    seconds = iter([(0.5, 0.25), (1.0, 0.5)])
    monkeypatch.setattr(tables, "_step_seconds", lambda *_: next(seconds))
    monkeypatch.setattr(tables, "cost_of", lambda _: tables.Cost(1_234_567, 8_910_000_000))
    console = Console(file=io.StringIO(), width=180)
    slower = dataclasses.replace(PRESET, name="slower", row="Table 0, slower")
    dry_run(console, "table0", (PRESET, slower), batch_size=4)
    first = ["1,234,567", "8.91", "500", "8", "250", "16", "1.00"]
    assert cells_of(console, "Table 0, tiny")[1:-1] == first
    second = ["1,234,567", "8.91", "1000", "4", "500", "8", "0.50"]
    assert cells_of(console, "Table 0, slower")[1:-1] == second


def test_a_batch_that_the_devices_cannot_share_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match="batch_size must be a multiple of 4"):
        dry_run(Console(file=io.StringIO()), "table0", (PRESET,), batch_size=2)


def test_costs_grow_with_what_is_costed():
    found = cost_of(TINY)
    model = TINY.model
    more = dataclasses.replace(model, proposals=dataclasses.replace(model.proposals, kept=32))
    higher = cost_of(dataclasses.replace(TINY, model=more))
    assert higher.parameters == found.parameters
    # Of 16 more boxes, at least the products of the box head.
    features, classes = model.box.features, 12
    products = 49 * 4 * features + features**2 + features * (classes + 1 + 4 * classes)
    assert higher.flops - found.flops > 16 * 2 * products
    wider = dataclasses.replace(TINY.data, longer=128)
    assert cost_of(dataclasses.replace(TINY, data=wider)).flops > 1.3 * found.flops


def test_the_backbone_of_every_row_is_a_preset_of_the_classification_task():
    known = {preset.name: preset.config.model for preset in CLASSIFIERS}
    used = set()
    for preset in itertools.chain(*TABLES.values()):
        name = backbone_name(preset.config)
        backbone = dataclasses.replace(preset.config.model.backbone, norm=known[name].norm)
        assert known[name] == backbone
        used.add(name)
    names = {f"table2-resnet{depth}{suffix}" for depth in (50, 101) for suffix in ("", "-carafe")}
    assert used == names | {
        f"table3-resnet50-{name}" for name in ("max-pool", "avg-pool", "dpp", "lip")
    }


def test_equal_rows_of_several_tables_are_one_run():
    rows = list(itertools.chain(*TABLES.values()))
    configs = {row.name: row.config for row in rows}
    for row in rows:
        assert configs[run_name(row.config)] == row.config
    names = {table: [run_name(row.config) for row in TABLES[table]] for table in TABLES}
    assert names["table4"][0] == names["table5"][0] == "table3-strided"
    assert names["table11"][2] == names["table13"][3] == names["table14"][2] == "table4-carafe"
    assert names["table7"][0] == "table6-deconvolution"
    assert names["table1"] == [row.name for row in TABLES["table1"]]


@pytest.mark.parametrize("masks", [True, False])
def test_a_table_shows_the_last_evaluation_of_each_row_beside_the_papers(
    tmp_path, monkeypatch, capsys, masks
):
    trained = []

    def train_run(config, folder, *rest):
        trained.append((config, folder, rest))
        folder.mkdir(parents=True)
        lines = [{"step": 1, "eval/box_AP": 0.111, "eval/mask_AP": 0.1}]
        lines += [{"step": 2, "eval/box_AP": 0.4567} | ({"eval/mask_AP": 0.25} if masks else {})]
        lines += [{"step": 3, "loss": 1.0}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text)

    monkeypatch.setattr(tables, "train_run", train_run)
    rows = TABLES["table7"][1:3]
    folders = tmp_path / "runs", tmp_path / "data", tmp_path / "backbones"
    run_table("table7", rows, *folders, Operation(), tmp_path / "cache")
    backbone = str(tmp_path / "backbones/table2-resnet50")
    for preset, (config, _, rest) in zip(rows, trained, strict=True):
        assert config == dataclasses.replace(preset.config, backbone_from=backbone)
        assert rest == (tmp_path / "data", Operation(), tmp_path / "cache")
    runs = [tmp_path / "runs" / name for name in ("table7-fpn", "table6-carafe")]
    assert [folder for _, folder, _ in trained] == runs
    written = (tmp_path / "runs/table7.md").read_text()
    for preset in rows:
        cells = [preset.row, "45.7", "25.0" if masks else "", preset.paper]
        assert f"| {' | '.join(cells)} |" in written
    assert "45.7" in capsys.readouterr().out


def test_a_row_that_starts_from_another_folder_of_the_same_backbones_is_the_same_run(
    tmp_path, monkeypatch
):
    """A run knows its backbone by the whole path, from wherever it is continued."""
    found = []

    def train_run(config, folder, *_):
        found.append(config)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "eval/box_AP": 0.5}\n')

    monkeypatch.setattr(tables, "train_run", train_run)
    (tmp_path / "below").mkdir()
    for place, backbones in ((tmp_path, "backbones"), (tmp_path / "below", "../backbones")):
        monkeypatch.chdir(place)
        run_table("table3", TABLES["table3"][:1], tmp_path, tmp_path, Path(backbones), Operation())
    assert found[0] == found[1]
