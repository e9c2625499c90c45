"""Pictures of inpainting: fills side by side, training curves, and where kernels look."""

import functools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from carafe_jax import reassemble
from experiments.engine.monitoring.plots import save_figure
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import Generator
from experiments.inpainting.pixels import to_unit
from experiments.inpainting.report.examples import Example

# Panels of the training curves: what is drawn of the logs, and as what.
_CURVES = {
    "reconstruction": "training: reconstruction loss",
    "adversarial": "training: adversarial loss",
    "discriminator_loss": "training: discriminator's loss",
    "eval/psnr_image": "validation: PSNR, dB",
    "eval/psnr_hole": "validation: hole PSNR, dB",
    "eval/ssim_hole": "validation: hole SSIM",
}
_COLUMNS = 3
_POINTS_SHOWN = 40

Log = Sequence[Mapping[str, Any]]


def save_fills(
    path: Path, examples: Sequence[Example], fills: Mapping[str, UInt8[np.ndarray, "n h w 3"]]
) -> None:
    """One row an example: input with hole, what each run fills in, original (as Fig. 8).

    Args:
        path: of the PNG.
        examples: bytes with masks; at least one.
        fills: by the name of the run, the examples as it fills them.
    """
    titles = ["input", *fills, "original"]
    pixels = examples[0]["image"].shape[1]
    cell = float(np.clip(pixels / 110, 1.7, 2.4))  # a pixel of a large image is one of the figure's
    lines = [textwrap.wrap(title, int(12 * cell), break_on_hyphens=True) for title in titles]
    heading = 0.15 * max(len(title) for title in lines) + 0.1
    size = len(titles) * (cell + 0.03), len(examples) * (cell + 0.03) + heading
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
        # A dollar sign in the name of a folder begins no formula.
        axes.set_title("\n".join(title), fontsize=8, pad=3, parse_math=False)
    save_figure(figure, path)


def _show(axes: Axes, image: np.ndarray) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()


def _note(axes: Axes, text: str) -> None:
    box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
    axes.text(0.03, 0.03, text, transform=axes.transAxes, fontsize=7, color="white", bbox=box)


def _with_hole(example: Example) -> UInt8[np.ndarray, "height width 3"]:
    """White holes stand out in most photographs."""
    return np.where(example["mask"] > 0, np.uint8(255), example["image"])


def _hole_psnr(filled: np.ndarray, example: Example) -> float:
    error = filled.astype(np.float64) - example["image"]
    squared = (error**2).mean(-1)[example["mask"][..., 0] > 0].mean()
    return float(min(100.0, 10 * np.log10(255**2 / max(squared, 1e-9))))


def save_training_curves(path: Path, logs: Mapping[str, Sequence[Log]]) -> None:
    """One panel a metric, over steps: every run thin, and the mean over the seeds thick.

    Of metrics that are noted at each step, as those of training, the mean of neighbouring notes is
    shown; what was evaluated only once, at the end, is not.

    Args:
        path: of the PNG.
        logs: by what the runs have in common, the metrics logs of its seeds; at least one.
    """
    every = [log for of_seeds in logs.values() for log in of_seeds]
    names = [name for name in _CURVES if any(len(_points(log, name)[0]) > 1 for log in every)]
    columns = 2 if len(names) == 4 else max(1, min(_COLUMNS, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(3.7 * columns, 2.7 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(grid, names, strict=False):
        for number, of_seeds in enumerate(logs.values()):
            _draw_seeds(axes, [_points(log, name) for log in of_seeds], f"C{number}")
        axes.set_title(_CURVES[name], fontsize=10)
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for number, name in enumerate(logs):
        grid[0].plot([], [], color=f"C{number}", label=name)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    save_figure(figure, path)


def _points(log: Log, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric; neighbours are averaged until few are left."""
    found = [(line["step"], line[name]) for line in log if line.get(name) is not None]
    points = np.array(found, np.float64).reshape(-1, 2)
    together = -(-len(points) // _POINTS_SHOWN)
    if together > 1:
        points = points[: len(points) // together * together]
        points = points.reshape(-1, together, 2).mean(axis=1)
    return points[:, 0], points[:, 1]


def _draw_seeds(axes: Axes, runs: Sequence[tuple[np.ndarray, np.ndarray]], color: str) -> None:
    runs = [run for run in runs if run[0].size]
    if not runs:
        return
    for steps, values in runs:
        axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.45 if len(runs) > 1 else 1)
    if len(runs) > 1:
        steps = runs[0][0]
        mean = np.mean([np.interp(steps, *run) for run in runs], axis=0)
        axes.plot(steps, mean, color=color, linewidth=2)


def contributions(
    kernels: Sequence[Float[Array, "1 height width taps"]],
    factors: Sequence[tuple[int, int]],
    size: tuple[int, int],
    target: tuple[int, int],
) -> Float[np.ndarray, "height width"]:
    """How much each source pixel adds to one target pixel through a chain of reassemblies.

    A chain is linear in its input, so this is the gradient of the target.

    Args:
        kernels: weights of each reassembly, from the source on.
        factors: ``(up, down)`` of each. A map that is larger than the next weights need is cropped,
            as decoders do on the way up from an odd size.
        size: height and width of the source.
        target: row and column in the result of the chain.

    Returns:
        Weights that sum to what of the kernels lies inside the maps, at most 1 with softmax.
    """
    return np.asarray(_target_gradient(tuple(kernels), tuple(factors), size, target))


@functools.partial(jax.jit, static_argnums=(1, 2))  # compiled once for all targets
def _target_gradient(
    kernels: tuple[jax.Array, ...],
    factors: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    target: tuple[int, int],
) -> jax.Array:
    def target_value(source: jax.Array) -> jax.Array:
        result = source[None, :, :, None]
        for weights, (up, down) in zip(kernels, factors, strict=True):
            kernel_size = round(weights.shape[-1] ** 0.5)
            height, width = (side * down // up for side in weights.shape[1:3])
            result = result[:, :height, :width]
            result = reassemble(result, weights, kernel_size=kernel_size, up=up, down=down)
        return result[0, target[0], target[1], 0]

    return jax.grad(target_value)(jnp.zeros(size))


def has_kernels(model: GeneratorConfig) -> bool:
    """Whether :func:`save_kernels` can draw a generator."""
    both = model.downsampler == model.upsampler == "carafe"
    return both and model.architecture == "global_local" and model.convolution == "plain"


def save_kernels(path: Path, model: Generator, variables: Any, example: Example) -> None:
    """The source pixels that CARAFE++ weighs most for some target pixels, as in Fig. 9.

    Above the way down: the pixels of the input that reach one pixel of the coarsest
    map (Fig. 9 b). Below the way up: the pixels of the coarsest map that reach one pixel of the
    finest (Fig. 9 a). Only the reassemblies count, not the convolutions between them.

    Args:
        path: of the PNG.
        model: one of which :func:`has_kernels` is true.
        variables: what :func:`experiments.inpainting.fill.variables_of` gives.
        example: bytes with their mask.
    """
    image, mask = to_unit(example["image"])[None], example["mask"][None].astype(np.float32)
    apply = jax.jit(functools.partial(model.apply, mutable="intermediates"))
    _, collections = apply(variables, image, mask)
    levels = range(1, model.config.levels + 1)

    def kernels(name: str) -> jax.Array:
        return collections["intermediates"][name]["resample"]["reassembly_kernels"][0]

    down = [kernels(f"down_{level}") for level in levels]
    up = [kernels(f"up_{level}") for level in reversed(levels)]
    side = image.shape[1]
    stride = 2 ** len(levels)
    coarse = down[-1].shape[1]
    picture = _with_hole(example)

    places = (coarse // 4, coarse // 2, 3 * coarse // 4)
    targets = [(row, column) for row in places[::2] for column in places]
    figure = Figure(figsize=(1.9 * len(targets), 4.3), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False).ravel()
    rows = [part.subplots(1, len(targets)) for part in (upper, lower)]
    for (row, column), above, below in zip(targets, *rows, strict=True):
        reach = contributions(down, [(1, 2)] * len(down), (side, side), (row, column))
        _draw_target(above, picture, reach, (row * stride, column * stride))
        target = row * stride + stride // 2, column * stride + stride // 2
        reach = contributions(up, [(2, 1)] * len(up), (coarse, coarse), target)
        reach = np.kron(reach, np.ones((stride, stride)))[:side, :side]
        _draw_target(below, picture, reach, target)
    upper.suptitle("Down: what of the input (red) reaches a pixel of the coarsest map (green)")
    lower.suptitle("Up: what of the coarsest map (red) reaches a pixel of the finest (green)")
    save_figure(figure, path)


def _draw_target(
    axes: Axes, picture: np.ndarray, reach: np.ndarray, target: tuple[int, int]
) -> None:
    grey = picture.mean(axis=-1, keepdims=True) / 255
    _show(axes, np.repeat(0.3 + 0.7 * grey, 3, axis=-1))
    # A few strong pixels must not hide the others.
    strength = np.clip(reach / np.percentile(reach[reach > 0], 98), 0, 1)
    overlay = np.zeros((*reach.shape, 4))
    overlay[..., 0] = 1.0
    overlay[..., 3] = 0.85 * strength
    axes.imshow(overlay, interpolation="nearest")
    axes.plot(target[1], target[0], "o", color="lime", markersize=4, markeredgecolor="black")
