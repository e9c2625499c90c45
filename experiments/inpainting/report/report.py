"""Inpainting's additions to the table of an experiment: sizes of holes, gains and figures."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.engine.folders import Folders
from experiments.engine.monitoring.logs import METRICS as LOG
from experiments.engine.monitoring.logs import read_metrics
from experiments.engine.tables.results import plain
from experiments.engine.tables.spec import Report, Row
from experiments.engine.tables.table import Spreads, Table
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import IMAGES
from experiments.inpainting.fill import make_generator, variables_of
from experiments.inpainting.presets import METRICS
from experiments.inpainting.report import figures
from experiments.inpainting.report.examples import fill_examples, spread_examples
from experiments.inpainting.report.gains import baseline_of, gains, paper_gains
from experiments.inpainting.report.tables import bucket_table
from experiments.inpainting.task import RUNS

_EXAMPLES_SHOWN = 5
_GAINS = "A gain (Δ) and its deviation are computed over pairs of runs with the same seed."

InpaintingRow = Row[InpaintingConfig]


def report(rows: Sequence[InpaintingRow], output: Path, folders: Folders) -> Report:
    """Tables of metrics by the size of the hole, tables of gains, and figures.

    Writes ``fills.png`` and ``curves.png``, and ``kernels.png`` for the first row in which CARAFE++
    is both downsampler and upsampler, if there is one. Fills and kernels are from each row's first
    seed whose run still exists.

    Args:
        rows: rows of the table, all on the same data.
        output: folder of the table.
        folders: folders of runs and data.
    """
    _draw_fills(rows, output, folders)
    logs = {
        row.preset.row: [read_metrics(run / LOG) for run in row.folders.values()] for row in rows
    }
    figures.save_training_curves(output / "curves.png", logs)
    by_name = {row.preset.name: row for row in rows}
    presets = {name: row.preset for name, row in by_name.items()}
    baselines = {name: baseline_of(preset, presets) for name, preset in presets.items()}
    gained = {
        name: gains(by_name[name].runs, by_name[baseline].runs)
        for name, baseline in baselines.items()
        if baseline is not None
    }
    buckets = bucket_table("By the size of the hole", {row.preset.row: row.metrics for row in rows})
    results = {
        name: {"baseline": baselines[name], "gains": plain(gained.get(name, {}))}
        for name in by_name
    }
    predict = f"{sys.executable} -m experiments.inpainting predict IMAGE --mask MASK"
    hints = "To fill a hole in your own image:", f"    {predict} --run {rows[-1].run}"
    first = next(iter(rows[0].runs.values()))
    images = sum(count for key, count in first.items() if key.startswith(f"{IMAGES}/"))
    data = rows[0].preset.config.data
    note = f"Metrics are means over {images:.0f} validation images of {data.images or data.source}."
    return Report((buckets, _gains_table(rows, gained)), (note, _GAINS), results, hints)


def _gains_table(rows: Sequence[InpaintingRow], gained: Mapping[str, Spreads]) -> Table:
    shown = [metric for metric in METRICS if metric.place == "headline"]
    lines = []
    for row in rows:
        ours = gained.get(row.preset.name, {})
        paper = paper_gains(row.preset.config) if ours else {}
        entries = [
            values[metric.name].text(metric.digits, "+") if metric.name in values else ""
            for metric in shown
            for values in (ours, paper)
        ]
        lines.append((row.preset.row, *entries))
    headings = [each for metric in shown for each in (f"Δ{metric.heading}", "paper's")]
    return Table("What CARAFE++ changes (Δ)", ("", *headings), tuple(lines))


def _draw_fills(rows: Sequence[InpaintingRow], output: Path, folders: Folders) -> None:
    shared = rows[0].preset.config.data
    shown = spread_examples(open_data(shared, folders), shared, _EXAMPLES_SHOWN)
    variables = [variables_of(RUNS.load(row.run).state) for row in rows]
    fills = {
        row.preset.row: fill_examples(row.preset.config, row_variables, shown)
        for row, row_variables in zip(rows, variables, strict=True)
    }
    figures.save_fills(output / "fills.png", shown, fills)
    for row, row_variables in zip(rows, variables, strict=True):
        if figures.has_kernels(row.preset.config.model):
            model = make_generator(row.preset.config)
            example = shown[len(shown) // 2]
            figures.save_kernels(output / "kernels.png", model, row_variables, example)
            break
