import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from experiments.classification import __main__ as command_line
from experiments.classification import maps as module
from experiments.classification import predict as prediction
from experiments.classification.maps import check_has_maps, map_drawer
from experiments.classification.predict import Guess
from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.engine.runs import LoadedRun
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.fixed_kernels import box_kernels
from tests.experiments.classification.tiny import TINY

NAMES = ("layer2_0/resample", "layer3_0/resample", "layer4_0/resample")


def save(path, side=40):
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(path)
    return path


def test_the_figure_shows_c5_of_the_network(monkeypatch):
    shapes = []

    def collect(model, variables, x):
        assert jax.tree.structure(variables) == jax.tree.structure(
            {"params": {"a": 1.0}, "batch_stats": {"b": 2.0}}
        )
        shapes.append(x.shape)
        found, side = [], x.shape[1] // 2
        for name in ("pool", *NAMES):
            step = dataclasses.replace(box_kernels((side, side), down=2), name=name)
            found.append(dataclasses.replace(step, kernels=step.kernels[None]))
            side = -(-side // 2)
        return None, tuple(found)

    def figure(image, pathways, targets, title, headings):
        assert list(pathways) == ["CARAFE++", "box"]
        assert len(pathways["CARAFE++"].steps) == 4
        assert pathways["CARAFE++"].target_stride == 32
        drawn.append(((title, [target[:2] for target in targets]), headings))

    drawn = []
    monkeypatch.setattr(module, "collect_reassemblies", collect)
    monkeypatch.setattr(module, "sources_figure", figure)
    monkeypatch.setattr(module, "pixels_of", lambda figure: np.zeros((1, 1, 3), np.uint8))
    state = {"params": {"a": 1.0}, "model_state": {"b": 2.0}}
    draw = map_drawer(LoadedRun(TINY, state, 0))
    for side in (128, 32):
        draw(np.zeros((side, side, 3), np.uint8), "a.png")
    assert shapes == [(1, 128, 128, 3), (1, 32, 32, 3)]
    (large, headings), (small, _) = drawn
    assert large == ("a.png, cropped to 128x128", [(1, 1), (1, 3), (3, 1), (3, 3)])
    assert headings[1] == "row 1, column 3"
    assert small[1] == [(0, 0)]


def test_the_network_has_the_names_of_the_figure():
    model = ResNet(ResNetConfig(18, "carafe", width=2), 3)
    shape = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), shape)
    _, found = jax.eval_shape(
        lambda variables, x: module.collect_reassemblies(model, variables, x), variables, shape
    )
    assert {"pool", *NAMES} <= {step.name for step in found}


def test_a_run_without_carafe_is_refused(tmp_path):
    config = dataclasses.replace(TINY, model=ResNetConfig(18, "max_pool"))
    with pytest.raises(ConfigError, match=r"model\.downsampler.* got 'max_pool' in .*run"):
        check_has_maps(config, tmp_path / "run")


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(
        prediction, "load_classifier", lambda *_: (LoadedRun(TINY, {}, 0), ("a", "b"))
    )
    monkeypatch.setattr(prediction, "classifier", lambda *_: lambda image: [Guess("a", 1.0)])

    def drawer(loaded):
        return lambda crop, title: crop

    monkeypatch.setattr(prediction, "map_drawer", drawer)


@pytest.mark.usefixtures("run")
def test_maps_are_written_to_the_output_only_on_request(tmp_path, capsys):
    file, output = save(tmp_path / "a.jpg"), tmp_path / "out"
    command_line.predict((file,), tmp_path, output)
    assert capsys.readouterr().out == f"{file}\n  100.00%  a\n"
    assert not output.exists()
    command_line.predict((file,), tmp_path, output, maps=True)
    assert capsys.readouterr().out == f"{file} -> {output}/a-maps-down.png\n  100.00%  a\n"
    with Image.open(output / "a-maps-down.png") as image:
        side = TINY.data.image_side
        assert image.size == (side, side)


@pytest.mark.usefixtures("run")
def test_maps_do_not_overwrite_inputs(tmp_path):
    files = [save(tmp_path / "a.png"), save(tmp_path / "a-maps-down.png")]
    before = files[1].read_bytes()
    (_, error), (_, guesses) = prediction.predict(tmp_path, files, maps=tmp_path)
    assert isinstance(error, InputError)
    assert "a-maps-down.png must not be an input" in str(error)
    assert guesses == [Guess("a", 1.0)]
    assert files[1].read_bytes() == before
