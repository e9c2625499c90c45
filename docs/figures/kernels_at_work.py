"""Draws CARAFE++ kernels at work on a photograph: the picture at the top of README.md.

``python docs/figures/kernels_at_work.py --output docs/kernels_at_work.png``

A small network sees a photograph at a quarter of its width and height, and predicts one reassembly
kernel for each pixel of the full size. Every output pixel is the sum of 5x5 source pixels, weighted
by its kernel. The network is trained on other photographs than the one that is shown. On two cores
of a server CPU the command takes a minute or two.

All photographs come with scikit-image. Shown: a cup of coffee by Rachel Michetti (CC0). Trained on:
Eileen Collins (NASA, public domain), Chelsea the cat by Stefan van der Walt (CC0), a rocket launch
(SpaceX, public domain) and a cameraman by Lav Varshney (CC0).
"""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import skimage.data
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from carafe_jax import carafe, reassemble, reassembly_kernels
from carafe_jax.linen import KernelPredictor

UP, TAPS = 4, 5  # scale, and side of the reassembly kernels
BATCH, CROP = 8, 96  # of training, in pixels of the full size

# The part of the photograph that is drawn, and the pixels in it whose kernels are drawn: rows and
# columns of the photograph. All four lie at the same position inside their source pixel, so that
# bilinear interpolation weighs their neighbourhoods in the same way.
TOP, LEFT, SIDE = 8, 168, 144
MARKED = {
    "flat": (72, 260),
    "light side of edge": (80, 180),
    "dark side of edge": (40, 208),
    "wood grain": (20, 180),
}

WIDTH = 1800  # of the figure, in pixels
BLUE = "#0a84ff"


class Upsampler(nn.Module):
    """Upsamples photographs by CARAFE++ kernels that it predicts from learned features."""

    @nn.compact
    def __call__(self, low: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns ``[B, 4H, 4W, 3]`` for ``[B, H, W, 3]``, and its kernels ``[B, 4H, 4W, 25]``."""
        features = nn.relu(nn.Conv(32, (3, 3))(low - 0.5))
        features = nn.relu(nn.Conv(32, (3, 3))(features))
        logits = KernelPredictor(up=UP, kernel_size=TAPS, compressed_channels=32)(features)
        kernels = reassembly_kernels(low, logits, up=UP, kernel_size=TAPS)
        return carafe(low, logits, up=UP, kernel_size=TAPS), kernels


class Upsampled(NamedTuple):
    """A photograph, its small version, and what was made of it; values from 0 to 1."""

    photograph: np.ndarray  # [4H, 4W, 3]
    low: np.ndarray  # [H, W, 3]
    bilinear: np.ndarray  # [4H, 4W, 3]
    bicubic: np.ndarray  # [4H, 4W, 3]
    output: np.ndarray  # [4H, 4W, 3]
    kernels: np.ndarray  # [4H, 4W, 5, 5]


def as_floats(photograph: np.ndarray) -> np.ndarray:
    """Values from 0 to 1, three channels, and sides that the scale divides."""
    height, width = (side // UP * UP for side in photograph.shape[:2])
    colours = photograph if photograph.ndim == 3 else np.stack([photograph] * 3, -1)
    return colours[:height, :width].astype(np.float32) / 255


def shrink(images: jax.Array) -> jax.Array:
    """Averages blocks of 4x4 pixels."""
    batch, height, width, channels = images.shape
    blocks = images.reshape(batch, height // UP, UP, width // UP, UP, channels)
    return blocks.mean((2, 4))


def train(steps: int, seed: int) -> Any:
    """Variables of an :class:`Upsampler` that has learned to undo :func:`shrink`."""
    names = "astronaut", "chelsea", "rocket", "camera"
    photographs = [as_floats(getattr(skimage.data, name)()) for name in names]
    random = np.random.default_rng(seed)
    model, optimizer = Upsampler(), optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    variables = model.init(jax.random.key(seed), jnp.ones((1, 8, 8, 3)))
    state = optimizer.init(variables)

    def crop() -> np.ndarray:
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(side - CROP + 1) for side in photograph.shape[:2])
        turned = np.rot90(photograph[top : top + CROP, left : left + CROP], random.integers(4))
        return turned[..., random.permutation(3)]  # other colours

    @jax.jit
    def step(variables: Any, state: Any, images: jax.Array) -> tuple[Any, Any]:
        def loss(variables: Any) -> jax.Array:
            return jnp.square(model.apply(variables, shrink(images))[0] - images).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    for _ in range(steps):
        variables, state = step(variables, state, np.stack([crop() for _ in range(BATCH)]))
    return variables


def upsample(variables: Any) -> Upsampled:
    """Shrinks the photograph of the cup and upsamples it again."""
    photograph = jnp.asarray(as_floats(skimage.data.coffee()))[None]
    low = shrink(photograph)
    output, kernels = jax.jit(Upsampler().apply)(variables, low)
    again = reassemble(low, kernels, up=UP, kernel_size=TAPS)
    np.testing.assert_allclose(again, output, atol=1e-5, err_msg="not the output's kernels")
    bilinear, bicubic = (
        jax.image.resize(low, photograph.shape, method) for method in ("bilinear", "bicubic")
    )
    kernels = kernels.reshape(*kernels.shape[:3], TAPS, TAPS)
    arrays = photograph, low, bilinear, bicubic, output, kernels
    return Upsampled(*(np.asarray(array[0]) for array in arrays))


def psnr(image: np.ndarray, photograph: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(-10 * np.log10(np.square(image - photograph).mean()))


def neighbourhood(result: Upsampled, pixel: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The source pixels ``[5, 5, 3]`` of an output pixel and their weights ``[5, 5]``."""
    top, left = (index // UP - TAPS // 2 for index in pixel)
    return result.low[top : top + TAPS, left : left + TAPS], result.kernels[pixel]


def bilinear_weights(pixel: tuple[int, int]) -> np.ndarray:
    """What bilinear interpolation gives the same 5x5 source pixels."""
    taps = np.arange(TAPS) - TAPS // 2
    position = [(index % UP + 0.5) / UP - 0.5 for index in pixel]  # from the centre
    rows, columns = (np.maximum(0, 1 - np.abs(taps - offset)) for offset in position)
    return np.outer(rows, columns)


def draw(result: Upsampled, path: Path) -> None:
    """Draws the photographs above the kernels of the marked pixels."""
    margin, gap, tile, panel = 12, 16, 3 * SIDE, 342
    first, second, height = 50, 592, 946  # upper ends of the two rows, and the figure's height
    figure = Figure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")

    def axes_at(column: int, top: int, side: int, title: str) -> Axes:
        left = margin + column * (side + gap)
        box = left / WIDTH, 1 - (top + side) / height, side / WIDTH, side / height
        axes = figure.add_axes(box, xticks=[], yticks=[])
        axes.set_title(title, fontsize=20, pad=9)
        return axes

    # A source pixel covers 4x4 pixels of the full size.
    small = result.low.repeat(UP, 0).repeat(UP, 1)
    images = {
        "source, 4x smaller": small,
        "bilinear, 4x larger": result.bilinear,
        "CARAFE++, 4x larger": result.output,
        "original": result.photograph,
    }
    for column, (title, image) in enumerate(images.items()):
        axes = axes_at(column, first, tile, title)
        axes.imshow(image.clip(0, 1), interpolation="nearest")
        axes.set(xlim=(LEFT - 0.5, LEFT + SIDE - 0.5), ylim=(TOP + SIDE - 0.5, TOP - 0.5))
        if image is small or image is result.output:
            draw_marks(axes)

    heading = "Weights of 5x5 source pixels (areas of the discs) in one output pixel (small square)"
    figure.text(0.5, 1 - (second - 62) / height, heading, fontsize=20, ha="center", va="center")
    first_pixel = next(iter(MARKED.values()))
    grey = np.full((TAPS, TAPS, 3), 0.85)
    axes = axes_at(0, second, panel, "bilinear, all four")
    draw_kernel(axes, grey, bilinear_weights(first_pixel), first_pixel)
    for number, (name, pixel) in enumerate(MARKED.items(), 1):
        axes = axes_at(number, second, panel, f"{number}  {name}")
        draw_kernel(axes, *neighbourhood(result, pixel), pixel)
    figure.savefig(path)


def draw_marks(axes: Axes) -> None:
    """Frames the neighbourhoods of the marked pixels, and numbers them."""
    side = UP * TAPS
    box = {"facecolor": "black", "edgecolor": "white", "pad": 4}
    for number, pixel in enumerate(MARKED.values(), 1):
        row, column = (UP * (index // UP - TAPS // 2) - 0.5 for index in pixel)
        for width, colour in (5, "black"), (2.5, "white"):
            frame = Rectangle((column, row), side, side, fill=False, lw=width, ec=colour)
            axes.add_patch(frame)
        x, y = column + side + 3, row + side / 2
        axes.text(x, y, str(number), fontsize=18, color="white", va="center", bbox=box)


def draw_kernel(
    axes: Axes, source: np.ndarray, weights: np.ndarray, pixel: tuple[int, int]
) -> None:
    """Draws source pixels, a disc on each whose area is its weight, and the output pixel."""
    axes.imshow(source, interpolation="nearest")
    between = np.arange(TAPS - 1) + 0.5
    axes.vlines(between, -0.5, TAPS - 0.5, colors="white", lw=0.7, alpha=0.6)
    axes.hlines(between, -0.5, TAPS - 0.5, colors="white", lw=0.7, alpha=0.6)
    for (row, column), weight in np.ndenumerate(weights):
        disc = Circle((column, row), np.sqrt(weight) / 2, fc=BLUE, ec="white", lw=1)
        axes.add_patch(disc)
    row, column = (TAPS // 2 - 0.5 + index % UP / UP for index in pixel)
    colour = np.einsum("rc,rcd->d", weights, source).clip(0, 1)
    axes.add_patch(Rectangle((column, row), 1 / UP, 1 / UP, fc=colour, ec="black", lw=2))


def main(output: Path, seed: int = 0, steps: int = 800) -> None:
    """Trains a small network, draws its kernels, and prints the PSNR of the whole photograph.

    Args:
        output: PNG file to write.
        seed: seed of the initial parameters and of the crops.
        steps: number of training steps.
    """
    result = upsample(train(steps, seed))
    images = {
        "CARAFE++": result.output,
        "bilinear": result.bilinear,
        "bicubic": result.bicubic,
    }
    for name, image in images.items():
        print(f"{name}: {psnr(image, result.photograph):.2f} dB")
    draw(result, output)


if __name__ == "__main__":
    tyro.cli(main)
