"""Draws an axis of four inputs that is rescaled by 3 / 2: the picture of docs/glossary.md.

``python docs/figures/cells.py`` writes docs/cells.svg.
"""

from pathlib import Path

import matplotlib
from carafe_kernels.geometry import Geometry
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

GEOMETRY = Geometry(kernel_size=3, up=3, down=2)
INPUTS = 4
COLOURS = ("#cfe3f5", "#fbe3c4")  # one for each cell
INK = "#222222"


def draw_pixels(axes: Axes, count: int, y: float, width: float, in_cell: int, label: str) -> None:
    """Draws a row of pixels in the colours of their cells, with their indices.

    Args:
        axes: axes to draw on.
        count: number of pixels.
        y: lower edge of the row.
        width: width of a pixel.
        in_cell: number of pixels in a cell.
        label: name of the row.
    """
    for index in range(count):
        colour = COLOURS[index // in_cell]
        corner = (index * width, y)
        axes.add_patch(Rectangle(corner, width, 0.6, facecolor=colour, edgecolor=INK))
        axes.text((index + 0.5) * width, y + 0.3, str(index), ha="center", va="center", color=INK)
    axes.text(-0.12, y + 0.3, label, ha="right", va="center", color=INK)


def main() -> None:
    """Writes the picture."""
    matplotlib.rcParams |= {"svg.hashsalt": "cells", "svg.fonttype": "none", "font.size": 11}
    outputs = GEOMETRY.output_size(INPUTS)
    width = GEOMETRY.down / GEOMETRY.up  # of an output, in inputs
    figure, axes = pyplot.subplots(figsize=(6.6, 2.9), layout="tight")
    draw_pixels(axes, INPUTS, 0, 1, GEOMETRY.down, "inputs")
    draw_pixels(axes, outputs, 1.7, width, GEOMETRY.up, "outputs")
    for output in range(outputs):
        start, end = ((output + 0.5) * width, 1.68), (GEOMETRY.centre(output) + 0.5, 0.63)
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK})
        axes.text(
            start[0], 2.4, f"phase {output % GEOMETRY.up}", ha="center", fontsize=9, color=INK
        )
    axes.text(-0.12, 1.15, "centres", ha="right", va="center", color=INK)
    for cell, colour in enumerate(COLOURS):
        left = cell * GEOMETRY.down
        axes.add_patch(
            FancyBboxPatch(
                (left + 0.12, -0.62),
                GEOMETRY.down - 0.24,
                0.3,
                boxstyle="round,pad=0.05",
                facecolor=colour,
                edgecolor="none",
            )
        )
        axes.text(left + 1, -0.47, f"cell {cell}", ha="center", va="center", color=INK)
    axes.set(xlim=(-1.0, INPUTS + 0.05), ylim=(-0.75, 2.7))
    axes.set_axis_off()
    picture = Path(__file__).parents[1] / "cells.svg"
    figure.savefig(picture, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
