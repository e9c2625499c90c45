"""Draws a photograph upsampled at continuous scales: the picture of docs/guides/any_scale.md.

``python docs/figures/any_scale.py --output docs/any_scale.png``

Small networks see a photograph shrunk by a scale from 1.1 to 4, and restore its size with one
CARAFE++ layer, ``up=2``. They are trained on other photographs than the one that is shown:

- *scale 2*: trained at scale 2 alone. It is called with the size of the photograph, or with
  ``up=2``, after which its result is resized bilinearly.
- *all scales*: trained at scales from 1.2 to 4, with and without an ``offset_predictor``.

The command prints and draws the PSNR at each scale, beside bilinear and bicubic interpolation. On
two cores of a server CPU it takes ten minutes.

All photographs come with scikit-image. Shown: a cup of coffee by Rachel Michetti (CC0). Trained on:
Eileen Collins (NASA, public domain), Chelsea the cat by Stefan van der Walt (CC0), a rocket launch
(SpaceX, public domain) and a cameraman by Lav Varshney (CC0).
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import skimage.data
import tyro
from matplotlib.figure import Figure

from carafe_jax.linen import CARAFE

TRAINED_ON = "astronaut", "chelsea", "rocket", "camera"
BATCH, CROP = 8, 96  # of training, in pixels of the full size
# Sides to which crops are shrunk: scales 1.2 to 4, among them 2 and 3, and between them others.
SIDES = (24, 27, 32, 37, 42, 48, 56, 67, 80)
SCALES = (1.1, 1.25, 1.4, 1.6, 1.8, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 4.0)
DRAWN = (1.4, 2.5, 3.5)  # scales whose results are drawn
TOP, LEFT, SIDE = 8, 168, 144  # the part that is drawn, in pixels of the photograph

type Size = tuple[int, int]


class Upsampler(nn.Module):
    """Restores the size of photographs with one CARAFE++ layer."""

    offset_features: int | None

    @nn.compact
    def __call__(self, low: jax.Array, size: Size | None) -> jax.Array:
        """Returns ``[B, *size, 3]`` for ``[B, H, W, 3]``; by default the size is doubled."""
        features = nn.relu(nn.Conv(32, (3, 3))(low - 0.5))
        features = nn.relu(nn.Conv(29, (3, 3))(features))
        x = jnp.concatenate([low, features], axis=-1)
        layer = CARAFE(up=2, compressed_channels=32, offset_features=self.offset_features)
        return layer(x, size=size)[..., :3]


def as_floats(photograph: np.ndarray) -> np.ndarray:
    """Values from 0 to 1 in three channels."""
    colours = photograph if photograph.ndim == 3 else np.stack([photograph] * 3, -1)
    return colours.astype(np.float32) / 255


@functools.partial(jax.jit, static_argnums=(1, 2))
def resize(images: jax.Array, size: Size, method: str) -> jax.Array:
    """Interpolates images, with a wider filter if they become smaller."""
    return jax.image.resize(images, (images.shape[0], *size, images.shape[3]), method)


def train(model: Upsampler, sides: Sequence[int], steps: int, seed: int) -> Any:
    """Variables of a network that restores crops shrunk to one of ``sides``."""
    photographs = [as_floats(getattr(skimage.data, name)()) for name in TRAINED_ON]
    random = np.random.default_rng(seed)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    variables = model.init(jax.random.key(seed), jnp.ones((1, 8, 8, 3)), None)
    state = optimizer.init(variables)

    def crop() -> np.ndarray:
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(side - CROP + 1) for side in photograph.shape[:2])
        turned = np.rot90(photograph[top : top + CROP, left : left + CROP], random.integers(4))
        return turned[..., random.permutation(3)]  # other colours

    @functools.partial(jax.jit, static_argnums=3)
    def step(variables: Any, state: Any, images: jax.Array, side: int) -> tuple[Any, Any]:
        low = resize(images, (side, side), "linear")

        def loss(variables: Any) -> jax.Array:
            return jnp.square(model.apply(variables, low, (CROP, CROP)) - images).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    for _ in range(steps):
        side = int(random.choice(sides))
        images = np.stack([crop() for _ in range(BATCH)])
        variables, state = step(variables, state, images, side)
    return variables


def restored(networks: dict[str, Any], photograph: jax.Array, scale: float) -> dict[str, Any]:
    """The photograph shrunk by ``scale``, and its size restored by every method."""
    size = (photograph.shape[1], photograph.shape[2])
    low = resize(photograph, (round(size[0] / scale), round(size[1] / scale)), "linear")
    found = {method: resize(low, size, method) for method in ("bilinear", "bicubic")}
    for name, (model, variables) in networks.items():
        apply = jax.jit(model.apply, static_argnums=2)
        found[f"CARAFE++, {name}"] = apply(variables, low, size)
        if name == "scale 2":
            doubled = apply(variables, low, None)
            found["CARAFE++, scale 2, then bilinear"] = resize(doubled, size, "bilinear")
    return found


def psnr(image: jax.Array, photograph: jax.Array) -> float:
    """Peak signal-to-noise ratio in dB."""
    return float(-10 * jnp.log10(jnp.square(image - photograph).mean()))


def draw(
    curves: dict[str, list[float]],
    scales: Sequence[float],
    images: dict[float, dict[str, Any]],
    path: Path,
) -> None:
    """Draws the PSNR over the scale, and parts of the results."""
    figure = Figure(figsize=(15, 7.8), dpi=100, layout="constrained")
    grid = figure.add_gridspec(2, 2 * len(images), height_ratios=(2, 1))
    axes = figure.add_subplot(grid[0, :])
    bilinear = np.array(curves["bilinear"])
    for name, values in curves.items():
        if name != "bilinear":
            axes.plot(scales, np.array(values) - bilinear, marker=".", label=name)
    axes.axhline(0, color="grey", lw=1)
    axes.set(xlabel="scale", ylabel="PSNR minus that of bilinear, dB")
    axes.legend()
    drawn = itertools.product(images.items(), ("bilinear", "CARAFE++, all scales, with offsets"))
    for number, ((scale, results), name) in enumerate(drawn):
        part = results[name][0, TOP : TOP + SIDE, LEFT : LEFT + SIDE]
        panel = figure.add_subplot(grid[1, number])
        panel.imshow(np.clip(part, 0, 1), interpolation="nearest")
        panel.set(xticks=[], yticks=[])
        panel.set_title(f"{name.split(',')[0]}, scale {scale:g}")
    figure.savefig(path)


def main(
    output: Path, seed: int = 0, steps: int = 1500, scales: tuple[float, ...] = SCALES
) -> None:
    """Trains small networks, prints the PSNR of the whole photograph at each scale, and draws.

    Args:
        output: PNG file to write.
        seed: seed of the initial parameters and of the crops.
        steps: number of training steps of each network.
        scales: scales at which the networks are compared.
    """
    choices = {
        "scale 2": (None, (CROP // 2,)),
        "all scales": (None, SIDES),
        "all scales, with offsets": (16, SIDES),
    }
    networks = {}
    for name, (offset_features, sides) in choices.items():
        model = Upsampler(offset_features)
        networks[name] = model, train(model, sides, steps, seed)
    photograph = jnp.asarray(as_floats(skimage.data.coffee()))[None]
    results = {scale: restored(networks, photograph, scale) for scale in (*scales, *DRAWN)}
    curves = {
        name: [psnr(results[scale][name], photograph) for scale in scales]
        for name in results[scales[0]]
    }
    for name, values in curves.items():
        print(f"{name}:", ", ".join(f"{value:.2f}" for value in values))
    draw(curves, scales, {scale: results[scale] for scale in DRAWN}, output)


if __name__ == "__main__":
    tyro.cli(main)
