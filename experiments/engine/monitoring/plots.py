"""Plots of a run's metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.engine.files import write_atomically
from experiments.engine.monitoring.logs import EVALUATION

_COLUMNS = 3
_NOT_PLOTTED = frozenset({"step", "skipped", "unreadable"})


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as a PNG, atomically."""
    FigureCanvasAgg(figure)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))


def save_curves(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Draws each metric over the steps in its own panel, except for details of other metrics.

    Args:
        path: path of the PNG.
        log: lines of a metrics log; a metric may be missing from a line, and a value may be None.
    """
    logged = dict.fromkeys(name for line in log for name in line)
    names = [
        name
        for name in logged
        if name not in _NOT_PLOTTED and "/" not in name.removeprefix(EVALUATION)
    ]
    columns = min(_COLUMNS, max(1, len(names)))
    rows = -(-max(1, len(names)) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        points = [(line["step"], line[name]) for line in log if line.get(name) is not None]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 20 else "", linewidth=1)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(alpha=0.3)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    save_figure(figure, path)
