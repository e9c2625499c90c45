"""Figures of source weights on pictures (Figs. 1 and 9 of the paper)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from carafe_jax.sources import smallest_sources
from experiments.source_maps.pathways import Pathway, image_sources
from experiments.source_maps.targets import Target

# Fraction of a target's source weight that the drawn sources hold.
SHARE = 0.7

RED, GREEN = (0.9, 0.0, 0.0), (0.0, 1.0, 60 / 255)
_OPACITIES = 0.25, 0.65  # of drawn sources with the least and the most weight
_COLOURS = "#ff3030", "#ffffff", "#ff9f1c", "#ff5cf4"  # of sampled pixels; visible on viridis
_ZOOMED = 0.7  # windows below this fraction of the image's sides are shown in rows of their own
_NOTED = 0.95  # a smaller weight in the image is written in the panel
_PANEL = 2.3  # inches
_DPI = 110
_KINDS = {"inside": "inside an object", "border": "border of an object", "background": "background"}

Pixels = UInt8[np.ndarray, "height width 3"]
Window = tuple[float, float, float, float]  # left, right, bottom and top in pixels of the image


def pixels_of(figure: Figure) -> Pixels:
    """Draws a figure.

    Args:
        figure: figure with any number of panels.

    Returns:
        RGB pixels, uint8 ``[H, W, 3]``.
    """
    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sources_figure(
    image: Pixels,
    pathways: Mapping[str, Pathway],
    targets: Sequence[Target],
    title: str,
    headings: Sequence[str] | None = None,
) -> Figure:
    """Draws from which pixels of the source map each target is reassembled (Fig. 9).

    Each target has a column. A row for each pathway shows the part of the image around the target,
    and a first row the whole image with the first pathway. If the parts are hardly smaller than the
    image, all rows show the whole image. The smallest set of source pixels that holds 70 % of the
    weight is red, and more opaque for a larger weight; the target has a green outline. Pixels of
    both maps are drawn as the squares of the image that they cover.

    Args:
        image: RGB image as the network reads it, without padding.
        pathways: pathways of the image between the same maps, by the name of the method.
        targets: targets, at least one.
        title: first line of the title.
        headings: heading of the column of each target; None for the kinds of the targets.
    """
    pixels = [target[:2] for target in targets]
    found = {
        name: image_sources(pathway, pixels, image.shape[:2]) for name, pathway in pathways.items()
    }
    pathway = next(iter(pathways.values()))
    windows = [
        _window([weights[column] for weights in found.values()], pathway, target, image)
        for column, target in enumerate(targets)
    ]
    height, width = image.shape[:2]
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    zooms = any(max(_sides(window, whole)) <= _ZOOMED for window in windows)
    if not zooms:
        windows = [whole] * len(targets)
    rows = [(name, name, windows) for name in pathways]  # pathway, label and windows
    if zooms:
        first = next(iter(pathways))
        rows.insert(0, (first, f"{first}, whole image", [whole] * len(targets)))
    shapes = [max(_shape(window) for window in each[2]) for each in rows]
    lines = textwrap.wrap(_caption(pathway), max(60, 27 * len(targets)))
    size = (
        max(_PANEL * len(targets), 4.5) + 0.4,
        _PANEL * sum(shapes) + 0.1 * len(rows) + 0.2 * (len(lines) + 2),
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(targets), squeeze=False, height_ratios=shapes)
    for (name, label, limits), line in zip(rows, grid, strict=True):
        for column, (target, axes) in enumerate(zip(targets, line, strict=True)):
            _draw_sources(axes, image, found[name][column], pathway)
            _draw_target(axes, target, pathway)
            _note_weight(axes, found[name][column])
            axes.set(xlim=limits[column][:2], ylim=limits[column][2:])
        line[0].set_ylabel(label, fontsize=9)
    if headings is None:
        headings = [_KINDS[target.kind] for target in targets]
    for heading, axes in zip(headings, grid[0], strict=True):
        axes.set_title(heading, fontsize=9, parse_math=False)
    figure.suptitle("\n".join([title, *lines]), fontsize=9, parse_math=False)
    return figure


def _shape(window: Window) -> float:
    """Returns the height of a window divided by its width."""
    left, right, bottom, top = window
    return (bottom - top) / (right - left)


def _sides(window: Window, whole: Window) -> tuple[float, float]:
    """Returns the width and the height of a window, as fractions of the whole image."""
    width, height = window[1] - window[0], window[2] - window[3]
    return width / (whole[1] - whole[0]), height / (whole[2] - whole[3])


def _caption(pathway: Pathway) -> str:
    source, target = pathway.source_stride, pathway.target_stride
    text = (
        f"{pathway.name}. Red: the pixels of the first map with the largest weights, which hold "
        f"{100 * SHARE:.0f} % of the weight with which the green pixel of the last map is "
        "reassembled; more opaque for a larger weight. Weight beyond the image does not count; a "
        f"note says how much is in the image, if it is less than {100 * _NOTED:.0f} %. "
        f"A pixel of the first map covers {source}x{source} pixels of the image, a pixel of the "
        f"last map {target}x{target}."
    )
    if source < target:
        text += " The kernels are centred on the upper left corner of the green pixel."
    return text


def _draw_sources(
    axes: Axes, image: Pixels, weights: Float[np.ndarray, "rows columns"], pathway: Pathway
) -> None:
    height, width = image.shape[:2]
    grey = image.mean(axis=-1, keepdims=True) / 255
    axes.imshow(np.repeat(0.35 + 0.65 * grey, 3, axis=-1), interpolation="nearest")
    overlay = np.zeros((*weights.shape, 4), np.float32)
    overlay[..., :3] = RED
    overlay[..., 3] = opacity(weights)
    stride = pathway.source_stride
    overlay = overlay.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]
    axes.imshow(overlay, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def chosen_sources(
    weights: Float[np.ndarray, "rows columns"],
) -> Bool[np.ndarray, "rows columns"]:
    """Returns the smallest set of sources with :data:`SHARE` of the weight.

    Sources with the same weight as one in the set are added: which of them is in the set is
    arbitrary.

    Args:
        weights: source weights of a target.
    """
    chosen = np.asarray(smallest_sources(jnp.asarray(weights), SHARE))
    if not chosen.any():
        return chosen
    rounding = 1e-5
    return weights >= (1 - rounding) * weights[chosen].min()


def opacity(weights: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Returns the opacity of the red of each source, which is 0 outside the chosen set.

    Args:
        weights: source weights of a target.
    """
    chosen = chosen_sources(weights)
    if not chosen.any():
        return np.zeros_like(weights)
    relative = weights / weights.max()
    faintest, strongest = _OPACITIES
    return np.where(chosen, faintest + (strongest - faintest) * relative, 0)


def _note_weight(axes: Axes, weights: Float[np.ndarray, "rows columns"]) -> None:
    """Writes the sum of the weights in the image, if kernels reach beyond it."""
    in_image = float(weights.sum())
    if in_image < _NOTED:
        box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
        axes.text(
            0.03,
            0.03,
            f"{100 * in_image:.0f} % in image",
            transform=axes.transAxes,
            fontsize=7,
            color="white",
            bbox=box,
        )


def _draw_target(axes: Axes, target: Target, pathway: Pathway) -> None:
    stride = pathway.target_stride
    corner = target.column * stride - 0.5, target.row * stride - 0.5
    for color, line in (("black", 3), (GREEN, 1.5)):
        square = Rectangle(corner, stride, stride, fill=False, edgecolor=color, linewidth=line)
        axes.add_patch(square)


def _window(
    weights: Sequence[Float[np.ndarray, "rows columns"]],
    pathway: Pathway,
    target: Target,
    image: Pixels,
) -> Window:
    """Returns left, right, bottom and top of a square around the target and all its sources.

    The square is cropped to the image.
    """
    height, width = image.shape[:2]
    stride = pathway.target_stride
    row, column = ((index + 0.5) * stride for index in target[:2])
    reach = 1.5 * max(stride, pathway.source_stride)
    for each in weights:
        chosen = np.argwhere(chosen_sources(each))
        if chosen.size:
            corners = np.concatenate([chosen, chosen + 1]) * pathway.source_stride
            reach = max(reach, float(np.abs(corners - np.array([row, column])).max()))
    edges = []
    for centre, side in ((column, width), (row, height)):
        length = min(2 * reach, side)
        start = float(np.clip(centre - length / 2, 0, side - length))
        edges.append((start - 0.5, start + length - 0.5))
    (left, right), (top, bottom) = edges
    return left, right, bottom, top


def pyramid_figure(
    image: Pixels,
    networks: Mapping[str, tuple[Sequence[Float[np.ndarray, "rows columns channels"]], Pathway]],
    targets: Sequence[Target],
    title: str,
) -> Figure:
    """Draws the levels of feature pyramids, and the regions that are reassembled (Fig. 1).

    Each pyramid has a column, and each level, from the coarsest, a row below the image. A panel
    shows the mean magnitude of the features of the level. A cross marks each sampled
    pixel, and an outline encloses the pixels of the coarsest level that hold 70 % of
    the weight with which the pixel was reassembled in all steps down to this level.

    Args:
        image: RGB image as the network reads it, without padding.
        networks: levels from P2 to P5, and the pathway of the image from P5 to P2, of each network,
            by the name of the network: the baseline first.
        targets: sampled pixels of P2, from 1 to 4; in a coarser level, the pixel that contains it.
        title: first line of the title.
    """
    height, width = image.shape[:2]
    lines = textwrap.wrap(
        "Mean magnitude of the features of each level, brighter for larger. Outlines: the pixels "
        f"of P5 with the largest weights, which hold {100 * SHARE:.0f} % of the weight with which "
        "the pixel under the cross of the same colour is reassembled, in all steps from P5 down.",
        max(60, 45 * len(networks)),
    )
    count = len(next(iter(networks.values()))[0])
    panel = 1.6 * _PANEL
    size = (
        max(panel * len(networks), 4.5),
        (count + 1) * (panel * height / width + 0.25) + 0.2 * (len(lines) + 2),
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(count + 1, len(networks), squeeze=False)
    for column, (name, (levels, pathway)) in enumerate(networks.items()):
        grid[0, column].imshow(image, interpolation="nearest")
        _draw_crosses(grid[0, column], targets, pathway.target_stride)
        for steps, axes in enumerate(grid[1:, column]):
            number = count - 1 - steps  # in ``levels``, which has the finest first
            stride = pathway.target_stride * 2**number
            _draw_level(axes, np.asarray(levels[number], np.float32), stride, image)
            _draw_regions(axes, pathway, steps, targets, image)
            axes.set_title(f"{name}, P{number + 2}", fontsize=9, parse_math=False)
        for axes in grid[:, column]:
            axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
        grid[0, column].set_title(f"{name}, image", fontsize=9, parse_math=False)
    figure.suptitle("\n".join([title, *lines]), fontsize=9, parse_math=False)
    return figure


def _draw_crosses(axes: Axes, pixels: Any, stride: int) -> None:
    """Draws a cross at each pixel, given by row and column in a map with the given stride."""
    for number, pixel in enumerate(pixels):
        row, column = ((index + 0.5) * stride - 0.5 for index in pixel[:2])
        axes.plot(column, row, "x", color="black", markersize=9, markeredgewidth=4)
        axes.plot(column, row, "x", color=_COLOURS[number], markersize=7, markeredgewidth=2)


def _draw_level(
    axes: Axes, level: Float[np.ndarray, "rows columns channels"], stride: int, image: Pixels
) -> None:
    height, width = image.shape[:2]
    magnitude = np.abs(level).mean(axis=-1)[: -(-height // stride), : -(-width // stride)]
    low, high = np.percentile(magnitude, [1, 99])
    rows, columns = magnitude.shape
    extent = (-0.5, columns * stride - 0.5, rows * stride - 0.5, -0.5)
    axes.imshow(
        magnitude, cmap="viridis", vmin=low, vmax=high, extent=extent, interpolation="nearest"
    )


def _draw_regions(
    axes: Axes, pathway: Pathway, steps: int, targets: Sequence[Target], image: Pixels
) -> None:
    """Draws the regions that are accumulated after the given number of steps from P5."""
    height, width = image.shape[:2]
    scale = 2 ** (len(pathway.steps) - steps)
    stride = pathway.target_stride * scale
    sampled = np.array([(target.row // scale, target.column // scale) for target in targets])
    if steps:
        weights = image_sources(pathway.first_steps(steps), sampled, (height, width))
    else:
        weights = np.zeros((len(sampled), *pathway.source_size), np.float32)
        weights[np.arange(len(sampled)), sampled[:, 0], sampled[:, 1]] = 1
    for number, each in enumerate(weights):
        chosen = chosen_sources(each)
        region = chosen.repeat(pathway.source_stride, axis=0).repeat(pathway.source_stride, axis=1)
        padded = np.pad(region[:height, :width].astype(np.float32), 1)
        axes.contour(
            np.arange(-1, padded.shape[1] - 1),
            np.arange(-1, padded.shape[0] - 1),
            padded,
            levels=[0.5],
            colors=[_COLOURS[number]],
            linewidths=2,
            # Dashes with gaps, so that outlines of other pixels show through.
            linestyles=[(4 * number, (4, 4 * (len(weights) - 1)))],
        )
    _draw_crosses(axes, sampled, stride)
