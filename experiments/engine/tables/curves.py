"""Figures of a table: metrics over the training, and differences between rows over the training."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.engine.monitoring.logs import EVALUATION
from experiments.engine.monitoring.plots import save_figure
from experiments.engine.presets import Comparison, Metric
from experiments.engine.tables.statistics import seed_interval

# Colours of Okabe and Ito that colour-blind readers can tell apart, without yellow.
_COLOURS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7")
_LINES = ("-", "--", ":", "-.")
_COLUMNS = 3
_POINTS_SHOWN = 40

Log = Sequence[Mapping[str, Any]]
# The logs of the runs of a row, by seed.
Logs = Mapping[int, Log]


def save_training_curves(
    path: Path, logs: Mapping[str, Logs], metrics: Sequence[Metric], losses: Mapping[str, str]
) -> None:
    """Draws a panel for each metric over steps: thin lines for runs, thick lines for their means.

    Values with many entries in the log, such as training losses, are averaged over neighbouring
    entries. Values with a single entry are not drawn. Without any panel, no file is written.

    Args:
        path: path of the PNG file.
        logs: logs of the runs of each row, by the row's name; at least one.
        metrics: metrics of the task; details of other metrics are not drawn.
        losses: titles of panels by the name of a value of the training log.
    """
    every = [log for by_seed in logs.values() for log in by_seed.values()]
    panels = [(name, title, "", 1.0) for name, title in losses.items()] + [
        (f"{EVALUATION}{metric.name}", metric.label or metric.name, metric.unit, metric.factor)
        for metric in metrics
        if metric.place != "detail"
    ]
    panels = [panel for panel in panels if any(len(_points(log, panel[0])) > 1 for log in every)]
    if not panels:
        return
    figure, grid = _panels(len(panels), list(logs))
    for axes, (name, title, unit, factor) in zip(grid, panels, strict=False):
        for by_seed, style in zip(logs.values(), _styles(), strict=False):
            runs = [_points(log, name) * (1, factor) for log in by_seed.values()]
            _draw_runs(axes, [run for run in runs if len(run)], style)
        _label(axes, title, unit)
    save_figure(figure, path)


def save_difference_curves(
    path: Path,
    logs: Mapping[str, Logs],
    names: Mapping[str, str],
    comparisons: Sequence[Comparison],
    metrics: Sequence[Metric],
) -> None:
    """Draws a panel for each metric: the difference of each comparison over steps.

    Lines are means over pairs of runs with the same seed, and bands are their 95 % intervals over
    seeds. A difference that was evaluated only once is not drawn. Without any panel, no file is
    written.

    Args:
        path: path of the PNG file.
        logs: logs of the runs of each row, by the name of its preset.
        names: name of each row, by the name of its preset.
        comparisons: comparisons of the table.
        metrics: metrics of the task; only the ones with tables of differences are drawn.
    """
    panels = []
    for metric in metrics:
        if metric.has_differences:
            found = [
                _differences(logs[each.preset], logs[each.baseline], metric) for each in comparisons
            ]
            if any(len(lines) > 1 for lines in found):
                panels.append((metric, found))
    if not panels:
        return
    titles = [f"{names[each.preset]} minus {names[each.baseline]}" for each in comparisons]
    figure, grid = _panels(len(panels), titles, 5.2, 3.9)
    for axes, (metric, found) in zip(grid, panels, strict=False):
        axes.axhline(0, color="grey", linewidth=1)
        for lines, style in zip(found, _styles(), strict=False):
            if len(lines) > 1:
                steps, mean, low, high = lines.T
                axes.plot(steps, mean, linewidth=2, **style)
                axes.fill_between(steps, low, high, color=style["color"], alpha=0.08, linewidth=0)
                # Without edges, bands that overlap could not be distinguished.
                for end in (low, high):
                    axes.plot(steps, end, linewidth=0.6, alpha=0.7, **style)
        _label(axes, f"difference in {metric.label or metric.name}", metric.unit)
    save_figure(figure, path)


def _differences(ours: Logs, theirs: Logs, metric: Metric) -> np.ndarray:
    """Step, mean, and lower and upper end of the interval: ``[steps, 4]``."""
    name = f"{EVALUATION}{metric.name}"
    pairs = [
        (dict(_found(ours[seed], name)), dict(_found(theirs[seed], name)))
        for seed in ours
        if seed in theirs
    ]
    steps = set.intersection(*({*our} & {*their} for our, their in pairs)) if pairs else set()
    lines = []
    for step in sorted(steps):
        values = [metric.factor * (our[step] - their[step]) for our, their in pairs]
        mean, interval = float(np.mean(values)), seed_interval(values)
        ends = (interval.low, interval.high) if interval else (mean, mean)
        lines.append((step, mean, *ends))
    return np.array(lines, np.float64).reshape(-1, 4)


def _found(log: Log, name: str) -> list[tuple[int, float]]:
    return [(line["step"], line[name]) for line in log if line.get(name) is not None]


def _points(log: Log, name: str) -> np.ndarray:
    """Steps and values, averaged over neighbours if there are many: ``[points, 2]``."""
    points = np.array(_found(log, name), np.float64).reshape(-1, 2)
    together = -(-len(points) // _POINTS_SHOWN)
    if together > 1:
        points = points[: len(points) // together * together]
        points = points.reshape(-1, together, 2).mean(axis=1)
    return points


def _draw_runs(axes: Axes, runs: Sequence[np.ndarray], style: Mapping[str, Any]) -> None:
    several = len(runs) > 1
    for run in runs:
        axes.plot(*run.T, linewidth=0.7 if several else 1.5, alpha=0.4 if several else 1, **style)
    if several:
        steps = runs[0][:, 0]
        mean = np.mean([np.interp(steps, *run.T) for run in runs], axis=0)
        axes.plot(steps, mean, linewidth=2, **style)


def _styles() -> Any:
    """Returns an endless iterator of line styles, one for each row."""
    return (
        {"color": colour, "linestyle": line}
        for line in itertools.cycle(_LINES)
        for colour in _COLOURS
    )


def _panels(
    count: int, names: Sequence[str], width: float = 3.9, height: float = 2.8
) -> tuple[Figure, np.ndarray]:
    """Returns a figure with a legend of ``names``, and its panels in a row."""
    columns = 2 if count == 4 else min(_COLUMNS, count)
    rows = -(-count // columns)
    # About the width of a letter, and of a line with its margins, in inches.
    longest = 0.063 * max(map(len, names)) + 0.6
    legend_columns = max(1, int(width * columns / longest))
    legend_height = 0.17 * -(-len(names) // legend_columns) + 0.15
    size = (max(width * columns, longest), height * rows + legend_height)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    lines = [
        Line2D([], [], linewidth=2, **style) for _, style in zip(names, _styles(), strict=False)
    ]
    figure.legend(
        lines,
        list(names),
        loc="outside upper center",
        ncols=legend_columns,
        fontsize=8,
        frameon=False,
        handlelength=3,
    )
    return figure, grid


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
