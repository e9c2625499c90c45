"""Headings of the columns of a figure of source weights."""

from collections.abc import Sequence

from matplotlib.figure import Figure


def set_headings(figure: Figure, headings: Sequence[str]) -> None:
    """Replaces the headings of the columns.

    Args:
        figure: figure from :func:`experiments.source_maps.figures.sources_figure`.
        headings: heading of each target, in order.
    """
    for axes, heading in zip(figure.axes, headings, strict=False):  # the first row comes first
        axes.set_title(heading, fontsize=9, parse_math=False)
