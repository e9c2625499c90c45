"""Figures of source weights on pictures (Figs. 1 and 9 of the paper)."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from carafe_jax.sources import smallest_sources
from experiments.source_maps.pathways import Pathway, sources
from experiments.source_maps.targets import Target

# Fraction of a target's source weight that the drawn sources hold.
SHARE = 0.7

_RED, _GREEN = (0.9, 0.0, 0.0), "#00ff3c"
_FAINTEST = 0.3  # opacity of the drawn source with the least weight
_PANEL = 2.3  # inches
_DPI = 110
_KINDS = {"inside": "inside an object", "border": "border of an object", "background": "background"}

Pixels = UInt8[np.ndarray, "height width 3"]


def pixels_of(figure: Figure) -> Pixels:
    """Draws a figure.

    Args:
        figure: figure with any number of panels.

    Returns:
        RGB pixels, uint8 ``[H, W, 3]``.
    """
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def sources_figure(
    image: Pixels,
    pathways: Mapping[str, Pathway],
    targets: Sequence[Target],
    title: str,
) -> Figure:
    """Draws from which pixels of the source map each target is reassembled (Fig. 9).

    Each target has a column. The first row shows the whole image with the first pathway. Below, a
    row for each pathway shows the part of the image around the target. The smallest set of source
    pixels that holds 70 % of the weight is red, and more opaque for a larger weight; the target has
    a green outline. Pixels of both maps are drawn as the squares of the image that they cover.

    Args:
        image: RGB image as the network reads it, without padding.
        pathways: pathways of the image between the same maps, by the name of the method.
        targets: targets, at least one.
        title: first line of the title.
    """
    found = {
        name: np.asarray(sources(pathway, np.array([target[:2] for target in targets])))
        for name, pathway in pathways.items()
    }
    first = next(iter(pathways))
    pathway = pathways[first]
    names = [first, *pathways]
    height, width = image.shape[:2]
    lines = textwrap.wrap(_caption(pathway), 30 * len(targets))
    heading = 0.2 * (len(lines) + 2)
    size = (
        _PANEL * len(targets) + 0.4,
        _PANEL * (height / width + len(pathways)) + 0.2 * len(names) + heading,
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(names),
        len(targets),
        squeeze=False,
        height_ratios=[height / width, *[1] * len(pathways)],
    )
    for column, target in enumerate(targets):
        window = _window([weights[column] for weights in found.values()], pathway, target, image)
        for row, name in enumerate(names):
            axes = grid[row, column]
            _draw_sources(axes, image, found[name][column], pathway)
            _draw_target(axes, target, pathway)
            if row:
                axes.set(xlim=window[:2], ylim=window[2:])
        grid[0, column].set_title(_KINDS[target.kind], fontsize=9)
    for row, name in enumerate(names):
        grid[row, 0].set_ylabel(f"{name}, whole image" if row == 0 else name, fontsize=9)
    figure.suptitle("\n".join([title, *lines]), fontsize=9, parse_math=False)
    return figure


def _caption(pathway: Pathway) -> str:
    return (
        f"{pathway.name}: the red pixels of the first map hold {100 * SHARE:.0f} % of the weight "
        "with which the green pixel of the last map is reassembled; more opaque is more weight. "
        f"A pixel of the first map covers {pathway.source_stride}x{pathway.source_stride} pixels "
        f"of the image, of the last map {pathway.target_stride}x{pathway.target_stride}."
    )


def _draw_sources(
    axes: Axes, image: Pixels, weights: Float[np.ndarray, "rows columns"], pathway: Pathway
) -> None:
    height, width = image.shape[:2]
    grey = image.mean(axis=-1, keepdims=True) / 255
    axes.imshow(np.repeat(0.35 + 0.65 * grey, 3, axis=-1), interpolation="nearest")
    overlay = np.zeros((*weights.shape, 4), np.float32)
    chosen = np.asarray(smallest_sources(weights, SHARE))
    overlay[..., :3] = _RED
    overlay[..., 3] = _opacity(weights, chosen)
    stride = pathway.source_stride
    overlay = overlay.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]
    axes.imshow(overlay, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def _opacity(
    weights: Float[np.ndarray, "rows columns"], chosen: Bool[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    if not chosen.any():
        return np.zeros_like(weights)
    relative = weights / weights.max()
    return np.where(chosen, _FAINTEST + (0.9 - _FAINTEST) * relative, 0)


def _draw_target(axes: Axes, target: Target, pathway: Pathway) -> None:
    stride = pathway.target_stride
    corner = target.column * stride - 0.5, target.row * stride - 0.5
    for color, line in (("black", 3), (_GREEN, 1.5)):
        square = Rectangle(corner, stride, stride, fill=False, edgecolor=color, linewidth=line)
        axes.add_patch(square)


def _window(
    weights: Sequence[Float[np.ndarray, "rows columns"]],
    pathway: Pathway,
    target: Target,
    image: Pixels,
) -> tuple[float, float, float, float]:
    """Returns left, right, bottom and top of a square around the target and all its sources."""
    height, width = image.shape[:2]
    stride = pathway.target_stride
    row, column = ((index + 0.5) * stride for index in target[:2])
    reach = 1.5 * max(stride, pathway.source_stride)
    for each in weights:
        chosen = np.argwhere(np.asarray(smallest_sources(each, SHARE)))
        if chosen.size:
            edges = np.concatenate([chosen, chosen + 1]) * pathway.source_stride
            reach = max(reach, float(np.abs(edges - np.array([row, column])).max()))
    side = min(2.0 * reach, float(max(height, width)))
    left = float(np.clip(column - side / 2, 0, max(width - side, 0)))
    top = float(np.clip(row - side / 2, 0, max(height - side, 0)))
    return left - 0.5, left + side - 0.5, top + side - 0.5, top - 0.5


def pyramid_figure(
    image: Pixels,
    halves: Mapping[str, tuple[Sequence[Float[np.ndarray, "rows columns channels"]], Pathway]],
    targets: Sequence[Target],
    title: str,
) -> Figure:
    """Draws the levels of feature pyramids, and the regions that are reassembled (Fig. 1).

    Each pyramid has a column, and each level, from the coarsest, a row. A panel shows the mean
    magnitude of the features of the level. At the sampled places, a cross marks the pixel of this
    level, and a red outline encloses the pixels of the coarsest level that hold 70 % of the weight
    with which the pixel was reassembled in all steps down to this level.

    Args:
        image: RGB image as the network reads it, without padding.
        halves: levels from P2 to P5, and the pathway of the image from P5 to P2, of each network,
            by the name of the network: the baseline first.
        targets: pixels of P2 in the middle of the sampled places.
        title: first line of the title.
    """
    height, width = image.shape[:2]
    lines = textwrap.wrap(
        "Each panel is the mean magnitude of the features of a level, brighter for larger. Red "
        f"outlines: the pixels of P5 that hold {100 * SHARE:.0f} % of the weight with which the "
        "pixel under the cross of the same colour was reassembled, in all steps down to the level.",
        56 * len(halves),
    )
    count = len(next(iter(halves.values()))[0])
    panel = 1.9 * _PANEL
    size = (
        panel * len(halves) + 0.4,
        count * (panel * height / width + 0.25) + 0.2 * (len(lines) + 2),
    )
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(count, len(halves), squeeze=False)
    for column, (name, (levels, pathway)) in enumerate(halves.items()):
        for row in range(count):
            axes = grid[row, column]
            number = count - 1 - row  # in ``levels``, which has the finest first
            stride = pathway.target_stride * 2**number
            _draw_level(axes, np.asarray(levels[number], np.float32), stride, image)
            _draw_regions(axes, pathway, row, targets, image)
            axes.set_title(f"{name}, P{number + 2}", fontsize=9, parse_math=False)
    figure.suptitle("\n".join([title, *lines]), fontsize=9, parse_math=False)
    return figure


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
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])


def _draw_regions(
    axes: Axes, pathway: Pathway, steps: int, targets: Sequence[Target], image: Pixels
) -> None:
    """Draws the regions that are accumulated after the given number of steps from P5."""
    height, width = image.shape[:2]
    scale = 2 ** (len(pathway.steps) - steps)
    stride = pathway.target_stride * scale
    places = np.array([(target.row // scale, target.column // scale) for target in targets])
    if steps:
        weights = np.asarray(sources(pathway.first_steps(steps), places))
    else:
        weights = np.zeros((len(places), *pathway.source_size), np.float32)
        weights[np.arange(len(places)), places[:, 0], places[:, 1]] = 1
    for number, (place, each) in enumerate(zip(places, weights, strict=True)):
        chosen = np.asarray(smallest_sources(each, SHARE))
        region = chosen.repeat(pathway.source_stride, axis=0).repeat(pathway.source_stride, axis=1)
        padded = np.pad(region[:height, :width].astype(np.float32), 1)
        axes.contour(
            np.arange(-1, padded.shape[1] - 1),
            np.arange(-1, padded.shape[0] - 1),
            padded,
            levels=[0.5],
            colors=[f"C{number + 1}"],
            linewidths=1.5,
        )
        row, column = (place + 0.5) * stride - 0.5
        axes.plot(column, row, "x", color=f"C{number + 1}", markersize=7, markeredgewidth=2)
