import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments.classification import __main__ as command_line
from experiments.classification import maps as module
from experiments.classification import predict as prediction
from experiments.classification.maps import check_has_maps, map_drawer
from experiments.classification.predict import Guess
from experiments.classification.task import initial_state, make_model
from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.engine.runs import LoadedRun
from experiments.models.input_normalization import normalize
from experiments.models.resnet_config import ResNetConfig
from tests.experiments.classification.tiny import TINY
from tests.experiments.source_maps.sown import assert_has_kernels, sharpened, sow


def save(path, side=40):
    Image.fromarray(np.full((side, side, 3), 90, np.uint8)).save(path)
    return path


@pytest.mark.usefixtures("few_optimizations")
def test_the_figure_shows_the_kernels_of_the_network(monkeypatch):
    drawn = []
    monkeypatch.setattr(module, "sources_figure", lambda *arguments: drawn.append(arguments))
    monkeypatch.setattr(module, "pixels_of", lambda figure: None)
    state = initial_state(TINY)
    state["params"] = sharpened(state["params"])
    draw = map_drawer(LoadedRun(TINY, state, 0))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    draw(image, "a.png")
    ((shown, pathways, targets, title, headings),) = drawn
    assert shown is image
    assert title == "a.png, cropped to 64x64"
    assert [target[:2] for target in targets] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert headings[1] == "row 0, column 1"
    assert list(pathways) == ["CARAFE++", "box"]
    pathway = pathways["CARAFE++"]
    assert (len(pathway.steps), pathway.target_stride) == (4, 32)
    model = make_model(TINY)
    variables = {"params": state["params"], "batch_stats": state["model_state"]}
    x = normalize(image[None], model.config.input)
    assert_has_kernels(pathway, sow(model, variables, x)[1])


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
