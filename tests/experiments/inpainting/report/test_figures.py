import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.model.generators import GlobalLocal
from experiments.inpainting.report.figures import (
    contributions,
    has_kernels,
    save_fills,
    save_kernels,
    save_training_curves,
)

CARAFE = GeneratorConfig(width=4, downsampler="carafe", upsampler="carafe", norm="none")


def test_contributions_of_a_chain_by_hand():
    identity = np.zeros((1, 2, 2, 9), np.float32)
    identity[..., 4] = 1
    left = np.zeros((1, 4, 4, 9), np.float32)
    left[..., 3] = 0.25  # the pixel to the left of the centre
    weights = contributions([identity, left], [(1, 2), (2, 1)], (4, 4), (2, 3))
    expected = np.zeros((4, 4))
    expected[2, 0] = 0.25  # target (2, 3) -> coarse (1, 1) -> its left (1, 0) -> source (2, 0)
    np.testing.assert_array_equal(weights, expected)


def test_contributions_if_an_upsampled_map_is_cropped():
    def identity(side):
        kernels = np.zeros((1, side, side, 9), np.float32)
        kernels[..., 4] = 1
        return kernels

    # 2 -> 4, cropped to 3 -> 6
    weights = contributions([identity(4), identity(6)], [(2, 1), (2, 1)], (2, 2), (5, 1))
    np.testing.assert_array_equal(weights, [[0, 0], [1, 0]])


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


def test_curves_show_each_metric_that_was_logged_more_than_once(tmp_path):
    training = [{"step": n, "reconstruction": 1 / n, "loss": None} for n in range(1, 200)]

    def width(evaluations):
        log = training + [{"step": n, "eval/psnr_hole": 10.0 + n} for n in evaluations]
        save_training_curves(tmp_path / "curves.png", {"without": [log, log], "with": [log]})
        with Image.open(tmp_path / "curves.png") as picture:
            assert np.asarray(picture).std() > 10
            return picture.width

    assert width([199]) < width([100, 199])


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({}, True),
        ({"upsampler": "nearest"}, False),
        ({"convolution": "partial"}, False),
        ({"architecture": "unet"}, False),
    ],
)
def test_kernels_can_be_drawn_for_plain_global_local_with_carafe_down_and_up(changes, drawn):
    assert has_kernels(dataclasses.replace(CARAFE, **changes)) is drawn


@pytest.mark.slow
def test_kernels_are_drawn_also_if_maps_have_odd_sizes(tmp_path):
    side = 22  # downsampled to 11 and 6, then upsampled to 12
    rng = np.random.default_rng(0)
    mask = (rng.random((side, side, 1)) < 0.2).astype(np.uint8)
    example = {"image": rng.integers(0, 256, (side, side, 3), np.uint8), "mask": mask}
    model = GlobalLocal(CARAFE)
    variables = jax.jit(model.init)(
        jax.random.key(0, impl="rbg"), np.zeros((1, side, side, 3)), np.zeros((1, side, side, 1))
    )
    save_kernels(tmp_path / "kernels.png", model, variables, example)
    with Image.open(tmp_path / "kernels.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 100)
    assert red[: len(red) // 2].any()
    assert red[len(red) // 2 :].any()
