"""Pictures of an inpainting run: fills side by side, loss curves, and where kernels look."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from carafe_jax import reassemble
from experiments.engine.plots import save_figure
from experiments.inpainting.batches import Batch, to_bytes
from experiments.inpainting.task import fill
from experiments.models.unet import UNet


def _show(axes: Axes, image: np.ndarray, title: str = "") -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()


def save_comparison(
    path: Path, examples: Sequence[Batch], filled: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """One row an example: input with hole, what each model filled in, original.

    Args:
        path: of the PNG.
        examples: images in [-1, 1] with masks.
        filled: by the name of the model, its composed outputs in [-1, 1], one an example.
    """
    columns = ["input", *filled, "original"]
    rows = len(examples)
    figure = Figure(figsize=(1.6 * len(columns), 1.65 * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for row, example in enumerate(examples):
        # White holes stand out in most photographs.
        hole = np.where(example["mask"] > 0, 1.0, example["image"])
        images = [hole, *(outputs[row] for outputs in filled.values()), example["image"]]
        for axes, image, title in zip(grid[row], images, columns, strict=True):
            _show(axes, to_bytes(image), title if row == 0 else "")
    save_figure(figure, path)


def save_loss_curves(path: Path, logs: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Training loss over steps, one curve a model, smoothed over its last few values."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, log in logs.items():
        steps = [line["step"] for line in log]
        loss = np.array([line["loss"] for line in log])
        window = min(5, len(loss))
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        (curve,) = axes.plot(steps[window - 1 :], smooth, label=name)
        axes.plot(steps, loss, color=curve.get_color(), alpha=0.25)
    axes.set_xlabel("step")
    axes.set_ylabel("training loss: L1 in the hole, range [-1, 1]")
    axes.set_ylim(bottom=0)
    axes.legend()
    save_figure(figure, path)


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
        factors: ``(up, down)`` of each.
        size: height and width of the source.
        target: row and column in the result of the chain.

    Returns:
        Weights that sum to what of the kernels lies inside the maps, at most 1 with softmax.
    """

    def target_value(source: jax.Array) -> jax.Array:
        result = source[None, :, :, None]
        for weights, (up, down) in zip(kernels, factors, strict=True):
            kernel_size = round(weights.shape[-1] ** 0.5)
            result = reassemble(result, weights, kernel_size=kernel_size, up=up, down=down)
        return result[0, target[0], target[1], 0]

    return np.asarray(jax.grad(target_value)(jnp.zeros(size)))


def save_kernels(path: Path, model: UNet, params: Any, example: Batch) -> None:
    """The source pixels that CARAFE++ weighs most for some target pixels, as in Fig. 9.

    Above the way down: the pixels of the input that reach one pixel of the coarsest
    map (Fig. 9 b). Below the way up: the pixels of the coarsest map that reach one pixel of the
    finest (Fig. 9 a). Only the reassemblies count, not the convolutions between them.

    Args:
        path: of the PNG.
        model: with CARAFE++ on all levels, both ways.
        params: its parameters.
        example: an image in [-1, 1] with its mask.
    """
    image, mask = (jnp.asarray(example[name])[None] for name in ("image", "mask"))
    _, collections = fill(model, params, image, mask, mutable="intermediates")
    levels = range(1, len(model.config.widths))

    def kernels(name: str) -> jax.Array:
        return collections["intermediates"][name]["resample"]["reassembly_kernels"][0]

    down = [kernels(f"down_{level}") for level in levels]
    up = [kernels(f"up_{level}") for level in reversed(levels)]
    side = image.shape[1]
    stride = 2 ** len(levels)
    coarse = down[-1].shape[1]
    picture = to_bytes(np.where(example["mask"] > 0, 1.0, example["image"]))

    places = (coarse // 4, coarse // 2, 3 * coarse // 4)
    targets = [(row, column) for row in places[::2] for column in places]
    figure = Figure(figsize=(1.9 * len(targets), 4.3), layout="constrained")
    grid = figure.subplots(2, len(targets))
    for (row, column), (above, below) in zip(targets, grid.T, strict=True):
        reach = contributions(down, [(1, 2)] * len(down), (side, side), (row, column))
        target = row * stride, column * stride
        _draw_target(above, picture, reach, target, "down: input pixels")
        target = row * stride + stride // 2, column * stride + stride // 2
        reach = contributions(up, [(2, 1)] * len(up), (coarse, coarse), target)
        reach = np.kron(reach, np.ones((stride, stride)))[:side, :side]
        _draw_target(below, picture, reach, target, "up: coarse pixels")
    figure.suptitle("green: target pixel; red: source pixels by weight, through all levels")
    save_figure(figure, path)


def _draw_target(
    axes: Axes, picture: np.ndarray, reach: np.ndarray, target: tuple[int, int], title: str
) -> None:
    grey = picture.mean(axis=-1, keepdims=True) / 255
    _show(axes, np.repeat(0.3 + 0.7 * grey, 3, axis=-1), title)
    # A few strong pixels must not hide the others.
    strength = np.clip(reach / np.percentile(reach[reach > 0], 98), 0, 1)
    overlay = np.zeros((*reach.shape, 4))
    overlay[..., 0] = 1.0
    overlay[..., 3] = 0.85 * strength
    axes.imshow(overlay, interpolation="nearest")
    axes.plot(target[1], target[0], "o", color="lime", markersize=4, markeredgecolor="black")
