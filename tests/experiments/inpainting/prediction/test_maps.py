import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.inpainting.__main__ import predict as predict_command
from experiments.inpainting.fill import make_generator, variables_of
from experiments.inpainting.model.generator_config import GeneratorConfig
from experiments.inpainting.pathways import Pathways
from experiments.inpainting.pixels import to_unit
from experiments.inpainting.prediction import predict as module
from experiments.inpainting.prediction.inpainter import Inpainter, TracedImage, load_inpainter
from experiments.inpainting.prediction.maps import directions, draw_maps
from experiments.inpainting.prediction.predict import predict
from experiments.inpainting.prediction.tiles import Tiling
from experiments.inpainting.task import initial_state
from experiments.resamplers.fixed_kernels import box_kernels
from experiments.source_maps.pathways import Pathway
from tests.experiments.inpainting.prediction.runs import BOX, CONFIG, pixels
from tests.experiments.source_maps.sown import assert_has_kernels, sharpened, sow

pytestmark = pytest.mark.usefixtures("few_optimizations")


def traced_image():
    """An image of 30x45 pixels with a hole, padded to 32x48, and box filters."""
    fine, coarse = (32, 48), (16, 24)
    down = Pathway(
        name="Down",
        steps=(box_kernels(fine, down=2),),
        source_stride=1,
        target_stride=2,
        target_size=coarse,
    )
    up = Pathway(
        name="Up",
        steps=(box_kernels(coarse, up=2),),
        source_stride=2,
        target_stride=1,
        target_size=fine,
    )
    mask = np.zeros((30, 45), bool)
    mask[10:20, 12:30] = True
    return TracedImage(pixels(30, 45), mask, Pathways(down, up))


def test_figures_show_targets_in_green_and_their_sources_in_red():
    drawn = draw_maps(traced_image(), "down", "a.png").astype(int)
    red = drawn[..., 0] - drawn[..., 1:].max(axis=-1) > 60
    green = drawn[..., 1] - drawn[..., [0, 2]].max(axis=-1) > 60
    assert red.sum() > 1000
    assert green.sum() > 100


def test_maps_are_written_beside_the_filled_image(run, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels()).save(folder / name)
    predict_command(folder, run, box=BOX.box, maps=True)
    names = "a.png", "a-maps-up.png", "b.png", "b-maps-up.png"
    written = [f"{tmp_path}/in-filled/{name}" for name in names]
    assert capsys.readouterr().out.splitlines() == written
    for file in written:
        with Image.open(file) as image:
            assert image.format == "PNG"
    assert {each.name for each in (tmp_path / "in-filled").iterdir()} == {*names}


def test_maps_do_not_overwrite_inputs(run, tmp_path):
    for name in ("a.bmp", "a-maps-up.png"):
        Image.fromarray(pixels()).save(tmp_path / name)
    found = dict(predict(run, tmp_path, BOX, tmp_path, maps=True))
    error = found[tmp_path / "a.bmp"]
    assert isinstance(error, InputError)
    assert "a-maps-up.png must not be an input" in str(error)
    assert not (tmp_path / "a.png").exists()


def test_the_image_is_traced_at_the_size_at_which_the_network_reads_it(run):
    mask = np.zeros((42, 61), bool)
    mask[10:30, 10:30] = True
    traced = load_inpainter(run, 20).trace(pixels(42, 61), mask)
    assert (traced.image.shape, traced.mask.shape) == ((20, 29, 3), (20, 29))
    down, up = traced.pathways
    assert down is None
    assert (up.source_stride, up.target_stride) == (2, 1)
    # Padded to a quarter of a tile.
    assert (up.source_size, up.target_size) == ((64, 64), (128, 128))


def test_pathways_have_the_kernels_of_the_network():
    model = GeneratorConfig("unet", downsampler="carafe", upsampler="carafe", width=2, levels=1)
    config = dataclasses.replace(CONFIG, model=model)
    variables = dict(variables_of(initial_state(config)))
    variables["params"] = sharpened(variables["params"])
    image, mask = pixels(64, 64), np.zeros((64, 64), bool)
    mask[10:30, 10:30] = True
    traced = Inpainter(config, variables, tiling=Tiling(64, 8, 8)).trace(image, mask)
    inputs = to_unit(image)[None], np.float32(mask)[None, ..., None]
    _, sown = sow(make_generator(config), variables, *inputs)
    for pathway in traced.pathways:
        assert_has_kernels(pathway, sown)


def test_an_image_that_the_network_reads_in_several_tiles_is_refused():
    inpainter = Inpainter(CONFIG, {}, tiling=Tiling(64, 8, 8))
    mask = np.zeros((30, 70), bool)
    mask[:9] = True
    with pytest.raises(InputError, match=r"at most 64x64 pixels, got 70x30: leave out full_size"):
        inpainter.trace(pixels(30, 70), mask)


@pytest.mark.parametrize(
    ("downsampler", "upsampler", "expected"),
    [
        ("carafe", "carafe", ("down", "up")),
        ("carafe", "deconvolution", ("down",)),
        ("strided", "bilinear", ("up",)),
    ],
)
def test_pathways_with_known_source_weights_are_drawn(downsampler, upsampler, expected):
    config = GeneratorConfig(downsampler=downsampler, upsampler=upsampler)
    assert directions(config) == expected


def test_a_run_without_known_source_weights_is_refused_before_any_image(run, tmp_path, monkeypatch):
    class Other:
        generator_config = GeneratorConfig(downsampler="max_pool", upsampler="deconvolution")

    monkeypatch.setattr(module, "load_inpainter", lambda *_: Other())
    Image.fromarray(pixels()).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"maps.* got 'max_pool' and 'deconvolution'"):
        predict(run, tmp_path / "a.png", BOX, tmp_path / "out.png", maps=True)
