import dataclasses
import itertools
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.errors import InputError
from experiments.engine.runs import LoadedRun
from experiments.inpainting.configs import DataConfig, InpaintingConfig
from experiments.inpainting.fill import make_generator, stride_of
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.prediction import inpainter as inpainter_module
from experiments.inpainting.prediction.inpainter import Inpainter, load_inpainter
from experiments.inpainting.prediction.tiles import Tiling
from tests.experiments.variables import scaled_variables

pytestmark = pytest.mark.usefixtures("few_optimizations")

CONFIG = InpaintingConfig(model=GeneratorConfig("unet", upsampler="nearest", width=4, levels=2))
CARAFE = InpaintingConfig(
    model=GeneratorConfig("unet", downsampler="carafe", upsampler="carafe", width=4, levels=1)
)


def initial(config):
    blank = np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 32, 32, 1), np.float32)
    return scaled_variables(make_generator(config), *blank)


VARIABLES = initial(CONFIG)


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def box(size, rows, columns):
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def with_fill(monkeypatch, function, tiling=None):
    """An inpainter that applies a function of image and mask instead of a network."""
    monkeypatch.setattr(inpainter_module, "fill", lambda _model, _variables, *x: function(*x))
    return Inpainter(CONFIG, VARIABLES, tiling=tiling or Tiling())


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (7, 33), (130, 41), (64, 200)])
@pytest.mark.parametrize("working_side", [None, 16])
def test_any_size_is_filled_and_pixels_outside_the_hole_do_not_change(size, working_side):
    image = noise(*size)
    mask = box(size, np.s_[: max(1, size[0] // 2)], np.s_[: max(1, size[1] // 2)])
    before = image.copy()
    filled = Inpainter(CONFIG, VARIABLES, working_side, Tiling(64, 8, 8))(image, mask)
    assert filled.shape == image.shape
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[~mask], image[~mask])
    assert (filled[mask] != image[mask]).any()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("working_side", [None, 40])
def test_pixels_in_the_hole_are_ignored(working_side):
    image, mask = noise(90, 133), box((90, 133), np.s_[20:61], np.s_[33:133])
    other = np.where(mask[..., None], 255 - image, image)
    inpainter = Inpainter(CONFIG, VARIABLES, working_side, Tiling(64, 8, 8))
    np.testing.assert_array_equal(inpainter(image, mask), inpainter(other, mask))


@pytest.mark.parametrize("config", [CONFIG, pytest.param(CARAFE, marks=pytest.mark.slow)])
def test_tiles_agree_with_the_whole_if_margins_exceed_the_receptive_field(config):
    variables = initial(config)
    reach = _reach(config, variables)
    margin = 32
    assert 8 < reach < margin
    size = 160, 224
    image, mask = noise(*size), box(size, np.s_[10:155], np.s_[7:220:3])
    expected = Inpainter(config, variables, tiling=Tiling(224, 0, 1))(image, mask).astype(int)
    tiled = Inpainter(config, variables, tiling=Tiling(144, margin, 8))(image, mask)
    # The two have different amounts of padding below the image.
    above = np.s_[: size[0] - reach]
    np.testing.assert_allclose(tiled[above], expected[above], atol=1)
    cut = Inpainter(config, variables, tiling=Tiling(64, 0, 1))(image, mask)
    assert np.abs(cut[above] - expected[above]).max() > 3  # seams without margins


def _reach(config, variables):
    """The largest distance at which changing a pixel has an influence, in pixels."""
    model = make_generator(config)
    mask = jnp.asarray(np.random.default_rng(1).random((1, 96, 96, 1)) < 0.2, jnp.float32)
    mask = mask.at[0, 46:50, 46:50].set(0)
    image = jnp.asarray(noise(96, 96)[None] / 127.5 - 1, jnp.float32)
    predict = jax.jit(model.apply)
    before = predict(variables, image, mask)
    reach = 0
    for at in range(46, 50):  # all positions within a pixel of the coarsest map
        after = predict(variables, image.at[0, at, at].set(-image[0, at, at]), mask)
        changed = np.asarray(before != after)[0].any(-1)
        reach = max(reach, *(int(np.abs(axis - at).max()) for axis in np.nonzero(changed)))
    return reach


@pytest.mark.parametrize("tiling", [Tiling(64, 8, 16), Tiling(64, 0, 32)])
def test_differences_at_a_seam_do_not_exceed_the_slope_of_the_ramp(monkeypatch, tiling):
    def mean_of_all(image, mask):  # its receptive field is larger than any margin
        visible = jnp.maximum((1 - mask).sum(), 1)
        return jnp.broadcast_to((image * (1 - mask)).sum() / visible / 3, image.shape)

    size = 200, 300
    image = np.empty((*size, 3), np.uint8)
    image[:] = np.linspace(0, 255, 300)[:, None]
    mask = np.ones(size, bool)
    mask[::20, ::20] = False
    filled = with_fill(monkeypatch, mean_of_all, tiling)(image, mask).astype(float)
    filled[~mask] = np.nan
    assert np.nanmax(filled) - np.nanmin(filled) > 150
    starts = [span.start for span in tiling.spans(300, stride_of(CONFIG))]
    # Visible pixels are 20 apart, which adds to the distance that means of tiles can differ by.
    between_tiles = 255 * (np.diff(starts).max() + 20) / 300
    across, along = (
        np.nanmax(np.abs(np.diff(filled, axis=1))),
        np.nanmax(np.abs(np.diff(filled, axis=0))),
    )
    assert 1 <= across <= np.ceil(between_tiles / tiling.ramp)
    assert along <= 1


def test_tiles_without_a_hole_are_left_out(monkeypatch):
    def undefined_without_hole(image, mask):
        return jnp.where(mask.any(), -jnp.ones_like(image), jnp.nan)

    inpainter = with_fill(monkeypatch, undefined_without_hole, Tiling(64, 8, 8))
    image, mask = noise(320, 320), box((320, 320), np.s_[30:40], np.s_[200:210])
    mask[300:, :5] = True
    np.testing.assert_array_equal(inpainter(image, mask), np.where(mask[..., None], 0, image))


def test_compilations_are_few_and_not_repeated(monkeypatch):
    shapes = []

    def note_shape(image, mask):
        shapes.append(image.shape)  # once for each compilation
        return image * (1 - mask)

    inpainter = with_fill(monkeypatch, note_shape, Tiling(128, 16, 16))
    for height, width in itertools.product((5, 32, 33, 64, 70, 96, 97, 128, 129, 250), repeat=2):
        inpainter(noise(height, width), box((height, width), 0, 0))
    assert len(shapes) == len(set(shapes)) == 16
    assert {shape[1:3] for shape in shapes} == {
        (32 * a, 32 * b) for a in range(1, 5) for b in range(1, 5)
    }


def test_memory_is_bounded_for_a_wide_image(monkeypatch):
    size = 3000, 20_000
    image = np.zeros((*size, 3), np.uint8)
    mask = box(size, np.s_[::500], np.s_[100:200])
    mask[1200:1300] = True
    inpainter = with_fill(monkeypatch, lambda image, mask: image * (1 - mask))
    inpainter(image[:600, :600], mask[:600, :600])  # compiles
    tracemalloc.start()
    try:
        result = inpainter(image, mask)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (result[mask] == 128).all()
    bound = image.nbytes + 12 * 512 * 20_000  # the result, and the bound in the docstring
    tile = 64 * 512 * 512
    assert bound - 12 * 512 * 20_000 < peak < bound + tile


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_network_is_reported(broken):
    variables = jax.tree.map(lambda array: array * broken, VARIABLES)
    with pytest.raises(InputError, match=r"network.* NaN"):
        Inpainter(CONFIG, variables)(noise(20, 20), np.eye(20, dtype=bool))


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((4, 4, 4), np.eye(4, dtype=bool), r"image.* \(4, 4, 4\).* \(4, 4\)"),
        ((4, 5, 3), np.eye(4, dtype=bool), r"image.* \(4, 5, 3\)"),
        ((4, 4, 3), np.eye(4), "mask.* float64"),
        ((4, 4, 3), np.ones((4, 4), bool), "mask.* all hole"),
        ((4, 4, 3), np.zeros((4, 4), bool), "mask.* no hole"),
        ((0, 4, 3), np.zeros((0, 4), bool), "mask.* no hole"),
    ],
)
def test_arrays_that_are_not_an_image_with_a_hole_are_refused(shape, mask, message):
    with pytest.raises(InputError, match=message):
        Inpainter(CONFIG, VARIABLES)(np.zeros(shape, np.uint8), mask)


def test_a_working_side_below_1_is_refused():
    with pytest.raises(InputError, match=r"working_side.* 0"):
        Inpainter(CONFIG, VARIABLES, working_side=0)


def test_a_working_side_sets_the_size_of_the_networks_input(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        inpainter_module, "fill", lambda _m, _v, x, mask: sizes.append(x.shape) or x * (1 - mask)
    )
    inpainter = Inpainter(CONFIG, VARIABLES, working_side=200)
    for size in ((600, 900), (150, 200)):  # scaled to 200x300 and padded; not scaled
        inpainter(noise(*size), box(size, np.s_[50:100], np.s_[50:100]))
    assert sizes == [(1, 256, 384, 3), (1, 256, 256, 3)]


def test_a_hole_around_one_visible_pixel_in_a_large_image():
    image = np.full((600, 600, 3), 200, np.uint8)
    mask = np.ones((600, 600), bool)
    mask[300, 300] = False
    filled = Inpainter(CONFIG, VARIABLES, working_side=64)(image, mask)
    assert (filled[300, 300] == 200).all()


def test_a_scratch_thinner_than_a_pixel_of_the_small_image_is_filled():
    image = np.full((600, 600, 3), 200, np.uint8)
    mask = box((600, 600), np.s_[:], 300)
    image[mask] = 0
    filled = Inpainter(CONFIG, VARIABLES, working_side=64)(image, mask)
    np.testing.assert_allclose(filled[mask], 200, atol=1)


def test_a_run_fills_at_the_size_on_which_it_was_trained(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, data=DataConfig(crop_side=16))
    loaded = LoadedRun(config, {"average": VARIABLES}, 1)
    monkeypatch.setattr(type(inpainter_module.RUNS), "load", lambda *arguments: loaded)
    image, mask = noise(40, 50), box((40, 50), slice(10, 30), slice(10, 30))
    for options, side in (({}, 16), ({"working_side": 20}, 20), ({"full_size": True}, None)):
        found = load_inpainter(tmp_path, **options)(image, mask)
        np.testing.assert_array_equal(found, Inpainter(config, VARIABLES, side)(image, mask))
    with pytest.raises(InputError, match=r"working_side.*full_size.* 20"):
        load_inpainter(tmp_path, 20, full_size=True)
