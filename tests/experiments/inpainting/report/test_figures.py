import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import build_generator
from experiments.inpainting.report.figures import has_kernels, save_fills, save_kernels

CARAFE = GeneratorConfig(width=4, downsampler="carafe", upsampler="carafe", norm="none")


def flat(colour):
    return np.broadcast_to(np.array(colour, np.uint8), (16, 16, 3))


def test_fills_are_between_the_input_and_the_original(tmp_path):
    red, green, blue = (230, 10, 10), (10, 230, 10), (10, 10, 230)
    examples = [
        {"image": flat(red), "mask": np.ones((16, 16, 1), np.uint8)},
        {
            "image": flat(blue),
            "mask": np.zeros((16, 16, 1), np.uint8) + (np.arange(256) < 128).reshape(16, 16, 1),
        },
    ]
    # The names of folders are not mathematics.
    fills = {"$1_$": np.stack([flat(green), flat(red)]), "two": np.stack([flat(blue), flat(green)])}
    save_fills(tmp_path / "fills.png", examples, fills)
    with Image.open(tmp_path / "fills.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    columns = [round(pixels.shape[1] * (n + 0.5) / 4) for n in range(4)]

    def colours(row):
        return [tuple(pixels[row, column]) for column in columns]

    white = (255, 255, 255)
    assert colours(pixels.shape[0] // 3) == [white, green, blue, red]
    assert colours(pixels.shape[0] * 2 // 3)[0] == white  # the upper half of the second example
    assert colours(pixels.shape[0] * 7 // 8) == [blue, red, green, blue]


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({}, True),
        ({"upsampler": "nearest"}, False),
        ({"downsampler": "strided"}, False),
        ({"convolution": "partial"}, True),
        ({"architecture": "unet"}, True),
    ],
)
def test_kernels_can_be_drawn_for_generators_with_carafe_down_and_up(changes, drawn):
    assert has_kernels(dataclasses.replace(CARAFE, **changes)) is drawn


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["global_local", "unet"])
def test_kernels_are_drawn_also_if_maps_have_odd_sizes(architecture, tmp_path):
    side = 22  # downsampled to 11 and 6, then upsampled to 12
    rng = np.random.default_rng(0)
    mask = (rng.random((side, side, 1)) < 0.2).astype(np.uint8)
    example = {"image": rng.integers(0, 256, (side, side, 3), np.uint8), "mask": mask}
    config = dataclasses.replace(CARAFE, architecture=architecture)
    model = build_generator(config, np.float32, None)
    variables = jax.jit(model.init)(
        jax.random.key(0, impl="rbg"), np.zeros((1, side, side, 3)), np.zeros((1, side, side, 1))
    )
    save_kernels(tmp_path / "kernels.png", model, variables, example)
    with Image.open(tmp_path / "kernels.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 100)
    assert red[: len(red) // 2].any()
    assert red[len(red) // 2 :].any()
