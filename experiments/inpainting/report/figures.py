"""Figures of inpainting: fills side by side, and weights of kernels."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from carafe_jax.linen import collect_reassemblies
from carafe_jax.sources import Reassembly
from experiments.engine.monitoring.plots import save_figure
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import Generator
from experiments.inpainting.pathways import generator_pathways
from experiments.inpainting.pixels import to_unit, with_white_hole
from experiments.inpainting.report.examples import Example
from experiments.source_maps.pathways import sources


def save_fills(
    path: Path, examples: Sequence[Example], fills: Mapping[str, UInt8[np.ndarray, "n h w 3"]]
) -> None:
    """Draws each example in a row: input with hole, fill of each run, original (as in Fig. 8).

    Args:
        path: path of the PNG file.
        examples: uint8 images with masks, at least one.
        fills: examples filled by each run, by the run's name.
    """
    titles = ["input", *fills, "original"]
    pixels = examples[0]["image"].shape[1]
    panel = float(np.clip(pixels / 110, 1.7, 2.4))  # large images are drawn pixel by pixel
    lines = [textwrap.wrap(title, int(12 * panel), break_on_hyphens=True) for title in titles]
    heading = 0.15 * max(len(title) for title in lines) + 0.1
    size = len(titles) * (panel + 0.03), len(examples) * (panel + 0.03) + heading
    layout = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.015, wspace=0, hspace=0)
    figure = Figure(figsize=size, layout=layout)
    grid = figure.subplots(len(examples), len(titles), squeeze=False)
    for row, example in enumerate(examples):
        images = [_with_hole(example), *(filled[row] for filled in fills.values())]
        for axes, image in zip(grid[row], [*images, example["image"]], strict=True):
            _show(axes, image)
        _note(grid[row][0], f"{100 * example['mask'].mean():.0f} % hole")
        for axes, image in zip(grid[row][1:-1], images[1:], strict=True):
            _note(axes, f"{_hole_psnr(image, example):.1f} dB")
    for axes, title in zip(grid[0], lines, strict=True):
        # The name of a folder may contain dollar signs, which are not mathematics.
        axes.set_title("\n".join(title), fontsize=8, pad=3, parse_math=False)
    save_figure(figure, path)


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def _note(axes: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
    axes.text(0.03, 0.03, text, transform=axes.transAxes, fontsize=7, color="white", bbox=box)


def _with_hole(example: Example) -> UInt8[np.ndarray, "height width 3"]:
    return with_white_hole(example["image"], example["mask"][..., 0] > 0)


def _hole_psnr(filled: np.ndarray, example: Example) -> float:
    error = filled.astype(np.float64) - example["image"]
    squared = (error**2).mean(-1)[example["mask"][..., 0] > 0].mean()
    return float(min(100.0, 10 * np.log10(255**2 / max(squared, 1e-9))))


def has_kernels(model: GeneratorConfig) -> bool:
    """Whether :func:`save_kernels` supports a generator with this config."""
    return model.downsampler == model.upsampler == "carafe"


def save_kernels(path: Path, model: Generator, variables: Any, example: Example) -> None:
    """Draws the weights of source pixels in some target pixels of CARAFE++, as in Fig. 9.

    The upper row shows the downsamplers: the weights of input pixels in one pixel of the coarsest
    map (Fig. 9 b). The lower row shows the upsamplers: the weights of the coarsest map's pixels in
    one pixel of the finest map (Fig. 9 a). Only the reassemblies count, not the convolutions
    between them.

    Args:
        path: path of the PNG file.
        model: a generator for which :func:`has_kernels` is true.
        variables: variables from :func:`experiments.inpainting.fill.variables_of`.
        example: uint8 image with its mask.
    """
    image, mask = to_unit(example["image"])[None], example["mask"][None].astype(np.float32)

    @jax.jit
    def reassemblies_of(image: jax.Array, mask: jax.Array) -> tuple[Reassembly, ...]:
        return collect_reassemblies(model, variables, image, mask)[1]

    found = jax.tree.map(lambda kernels: kernels[0], reassemblies_of(image, mask))
    down, up = generator_pathways(model.config, found, image.shape[1:3])
    assert down is not None
    assert up is not None
    side, stride, coarse = image.shape[1], up.source_stride, up.source_size[0]
    picture = _with_hole(example)

    positions = (coarse // 4, coarse // 2, 3 * coarse // 4)
    targets = [*dict.fromkeys((row, column) for row in positions[::2] for column in positions)]
    corners = np.array(targets) * stride
    centres = np.minimum(corners + stride // 2, side - 1)
    figure = Figure(figsize=(max(1.9 * len(targets), 6.0), 4.3), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False).ravel()
    for part, pathway, places, marks in (
        (upper, down, np.array(targets), corners),
        (lower, up, centres, centres),
    ):
        panels = part.subplots(1, len(targets), squeeze=False)[0]
        for axes, weights, mark in zip(panels, sources(pathway, places), marks, strict=True):
            scale = np.ones((pathway.source_stride,) * 2)
            drawn = np.kron(np.asarray(weights), scale)[:side, :side]
            _draw_target(axes, picture, drawn, (int(mark[0]), int(mark[1])))
    upper.suptitle("Down: input pixels (red) that add to a pixel of the coarsest map (green)")
    lower.suptitle("Up: pixels of the coarsest map (red) that add to a pixel of the finest (green)")
    save_figure(figure, path)


def _draw_target(
    axes: Axes, picture: np.ndarray, weights: np.ndarray, target: tuple[int, int]
) -> None:
    grey = picture.mean(axis=-1, keepdims=True) / 255
    _show(axes, np.repeat(0.3 + 0.7 * grey, 3, axis=-1))
    # Scaling by a percentile keeps a few large weights from hiding the others.
    strength = np.clip(weights / np.percentile(weights[weights > 0], 98), 0, 1)
    overlay = np.zeros((*weights.shape, 4))
    overlay[..., 0] = 1.0
    overlay[..., 3] = 0.85 * strength
    axes.imshow(overlay, interpolation="nearest")
    axes.plot(target[1], target[0], "o", color="lime", markersize=4, markeredgecolor="black")
