"""Inpainting's additions to the table of an experiment: metrics by the size of the hole, fills."""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.engine.folders import Folders
from experiments.engine.tables.spec import Report, Row
from experiments.inpainting.configs import InpaintingConfig
from experiments.inpainting.data.batches import open_data
from experiments.inpainting.evaluation import IMAGES
from experiments.inpainting.fill import make_generator, variables_of
from experiments.inpainting.report import figures
from experiments.inpainting.report.examples import fill_examples, spread_examples
from experiments.inpainting.report.tables import bucket_table
from experiments.inpainting.task import RUNS

_EXAMPLES_SHOWN = 5

InpaintingRow = Row[InpaintingConfig]


def report(rows: Sequence[InpaintingRow], output: Path, folders: Folders) -> Report:
    """A table of metrics by the size of the hole, and figures.

    Writes ``fills.png``, and ``kernels.png`` for the first row in which CARAFE++
    is both downsampler and upsampler, if there is one. Fills and kernels are from each row's first
    seed whose run still exists.

    Args:
        rows: rows of the table, all on the same data.
        output: folder of the table.
        folders: folders of runs and data.
    """
    _draw_fills(rows, output, folders)
    buckets = bucket_table("By the size of the hole", {row.preset.row: row.metrics for row in rows})
    predict = f"{sys.executable} -m experiments.inpainting predict IMAGE --mask MASK"
    hints = "To fill a hole in your own image:", f"    {predict} --run {rows[-1].run}"
    first = next(iter(rows[0].runs.values()))
    images = sum(count for key, count in first.items() if key.startswith(f"{IMAGES}/"))
    data = rows[0].preset.config.data
    note = f"Metrics are means over {images:.0f} validation images of {data.images or data.source}."
    return Report((buckets,), (note,), hints=hints)


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
