import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.detection.data.config import DataConfig
from experiments.detection.evaluation.masks import encode_mask
from experiments.detection.pathways import Observed
from experiments.detection.prediction import maps
from experiments.detection.prediction.maps import MapDrawer, Network, make_drawer
from experiments.detection.prediction.predict import predict, print_predictions, show
from experiments.detection.task import initial_state, make_model
from experiments.engine.config import ConfigError
from experiments.engine.errors import InputError
from experiments.engine.runs import LoadedRun
from experiments.models.input_normalization import normalize
from experiments.source_maps.pathways import fixed_top_down
from tests.experiments.detection.prediction.test_predict import CATEGORIES, make_infer, save
from tests.experiments.detection.tiny import TINY
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up
from tests.experiments.source_maps.sown import assert_has_kernels, sharpened, sow

# Buckets of 64x96 and 96x64 pixels; an image of 40x60 pixels is 50x75 pixels large in its bucket.
CONFIG = DataConfig(shorter=50, longer=90)


def batched(pathway):
    steps = (dataclasses.replace(each, kernels=each.kernels[None]) for each in pathway.steps)
    return dataclasses.replace(pathway, steps=tuple(steps))


def network(upsampler="carafe", downsampler="carafe"):
    """A network without computation, with the kernels of a box filter."""

    def observe(image, size):
        height, width = image.shape[1:3]
        sizes = [(height // stride, width // stride) for stride in (4, 8, 16, 32)]
        rng = np.random.default_rng(0)
        return Observed(
            tuple(rng.normal(size=(1, *each, 3)) for each in sizes),
            batched(fixed_top_down(sizes, "box")) if upsampler == "carafe" else None,
            batched(fixed_bottom_up((height // 2, width // 2), "box"))
            if downsampler == "carafe"
            else None,
        )

    return Network(upsampler, downsampler, observe)


@pytest.fixture
def drawn(monkeypatch):
    """Records the arguments of the figures, which are not drawn."""
    calls = {}
    for name in ("sources_figure", "pyramid_figure"):

        def record(*arguments, name=name):
            calls.setdefault(name, []).append(arguments)

        monkeypatch.setattr(maps, name, record)
    monkeypatch.setattr(maps, "pixels_of", lambda figure: np.zeros((4, 5, 3), np.uint8))
    return calls


def result(bbox, mask=None):
    found = {"image_id": 0, "category_id": 3, "bbox": bbox, "score": 0.9}
    return found if mask is None else {**found, "segmentation": encode_mask(mask)}


def image(height=64, width=96):
    return np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)


def test_figures_are_written_beside_the_drawing(tmp_path, drawn, capsys):
    infer, _ = make_infer()
    files = [save(tmp_path / "in/a.png")]
    drawer = MapDrawer(network(), network("nearest"))
    ((_, drawing),) = predict(files, tmp_path / "out", infer, CONFIG, CATEGORIES, drawer)
    assert drawing.output == tmp_path / "out/a.png"
    show({}, files[0], drawing._replace(results=[]))
    kinds = [f"{tmp_path}/out/a-{kind}.png" for kind in drawer.kinds]
    written = ", ".join([f"{tmp_path}/out/a.png", *kinds])
    assert f"{files[0]} -> {written}: nothing" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert names == {"a.png", "a-maps-up.png", "a-maps-down.png", "a-maps-pyramid.png"}
    for name in names - {"a.png"}:
        with Image.open(tmp_path / "out" / name) as figure:
            assert figure.size == (5, 4)


def test_nothing_is_written_if_a_figure_fails(tmp_path):
    class Failing(MapDrawer):
        def __call__(self, *arguments):
            raise InputError("kernels must be finite")

    infer, _ = make_infer()
    files = [save(tmp_path / "in/a.png")]
    drawer = Failing(network())
    ((_, error),) = predict(files, tmp_path / "out", infer, CONFIG, CATEGORIES, drawer)
    assert str(error) == f"image {files[0]}: kernels must be finite"
    assert not (tmp_path / "out").exists()


def test_figures_do_not_overwrite_inputs(tmp_path, drawn):
    infer, _ = make_infer()
    files = [save(tmp_path / "a.jpg"), save(tmp_path / "a-maps-up.png")]
    before = files[1].read_bytes()
    (_, first), _ = predict(files, tmp_path, infer, CONFIG, CATEGORIES, MapDrawer(network()))
    assert isinstance(first, InputError)
    assert "a-maps-up.png must not be an input file" in str(first)
    assert files[1].read_bytes() == before
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("masks", [False, True])
def test_targets_lie_on_the_detected_objects(drawn, masks):
    box = [30.0, 10.0, 30.0, 40.0]  # in an image of twice the size
    mask = np.zeros((100, 150), bool)
    mask[10:50, 30:60] = True
    # With masks, boxes do not count.
    results = [result([0.0, 0.0, 150.0, 100.0], mask) if masks else result(box)]
    MapDrawer(network())(image(), (50, 75), results, (100, 150), "a.png")
    (picture, pathways, targets, title), down = drawn["sources_figure"]
    assert title.startswith("a.png, as the network reads it: 75x50 pixels\n")
    assert picture.shape == (50, 75, 3)  # without the padding
    assert [*pathways] == ["CARAFE++", "bilinear", "box"]
    assert [*down[1]] == ["CARAFE++", "box"]
    kinds = [target.kind for target in targets]
    assert kinds == ["inside"] * 2 + ["border"] * 2 + ["background"] * 2
    for target in targets:
        y, x = 2 * (4 * target.row + 2), 2 * (4 * target.column + 2)
        assert mask[y, x] == (target.kind != "background")
        assert y < 100
        assert x < 150
    ((_, halves, sampled, _),) = drawn["pyramid_figure"]
    assert [*halves] == ["CARAFE++"]
    assert {target.kind for target in sampled} == {"inside"}


def test_without_objects_targets_are_on_a_grid(drawn):
    MapDrawer(network())(image(), (50, 75), [], (100, 150), "a.png")
    for _, _, targets, _ in (*drawn["sources_figure"], *drawn["pyramid_figure"]):
        assert targets
        assert {target.kind for target in targets} == {"background"}


def test_a_pyramid_with_a_fixed_upsampler_has_figures(drawn):
    drawer = MapDrawer(network("bilinear", "strided"), network("nearest", "strided"))
    assert drawer.kinds == ["maps-up", "maps-pyramid"]
    assert [*drawer(image(), (50, 75), [], (50, 75), "a.png")] == drawer.kinds
    ((_, pathways, _, _),) = drawn["sources_figure"]
    assert {name: pathway.steps[0].name for name, pathway in pathways.items()} == {
        "bilinear": "bilinear",
        "box": "box",
    }
    ((_, halves, _, _),) = drawn["pyramid_figure"]
    assert [*halves] == ["baseline, nearest", "run, bilinear"]
    assert [pathway.steps[0].name for _, pathway in halves.values()] == ["nearest", "bilinear"]


@pytest.mark.usefixtures("few_optimizations")
@pytest.mark.slow
def test_figures_show_the_kernels_of_the_network(drawn):
    config = with_resamplers("carafe", "carafe")
    state = initial_state(config)
    state["params"] = sharpened(state["params"])
    drawer = make_drawer(LoadedRun(config, state, 0), Path("run"))
    pixels, size = image(64, 64), (64, 48)
    drawer(pixels, size, [], size, "a.png")
    model = make_model(config)
    variables = {"params": state["params"], **state["model_state"]}
    x = normalize(pixels, config.model.backbone.input, np.array([size]))
    levels, sown = sow(model, variables, x, method="features")
    assert len(drawn["sources_figure"]) == 2
    for _, pathways, *_ in drawn["sources_figure"]:
        assert_has_kernels(pathways["CARAFE++"], sown)
    ((_, halves, *_),) = drawn["pyramid_figure"]
    np.testing.assert_allclose(halves["CARAFE++"][0][3], levels[3][0], rtol=1e-3, atol=1e-4)


def with_resamplers(upsampler, downsampler="strided", **data):
    neck = dataclasses.replace(TINY.model.neck, upsampler=upsampler)
    backbone = dataclasses.replace(TINY.model.backbone, downsampler=downsampler)
    model = dataclasses.replace(TINY.model, neck=neck, backbone=backbone)
    return dataclasses.replace(TINY, model=model, data=dataclasses.replace(TINY.data, **data))


def drawer_of(config, monkeypatch, baseline=None):
    loaded = LoadedRun(config, {"params": {}, "model_state": {}}, 1)
    monkeypatch.setattr(
        maps,
        "RUNS",
        type(
            "Runs",
            (),
            {
                "load_config": lambda self, folder: baseline,
                "load": lambda self, folder, checkpoint: loaded._replace(config=baseline),
            },
        )(),
    )
    return make_drawer(loaded, Path("run"), None if baseline is None else Path("left"))


def test_runs_without_known_source_weights_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"'carafe', 'nearest' or 'bilinear'.*'deconvolution'"):
        drawer_of(with_resamplers("deconvolution"), monkeypatch)
    assert drawer_of(with_resamplers("deconvolution", "carafe"), monkeypatch).kinds == ["maps-down"]
    carafe = with_resamplers("carafe")
    with pytest.raises(ConfigError, match=r"baseline.*'guided' in left"):
        drawer_of(carafe, monkeypatch, with_resamplers("guided"))
    with pytest.raises(ConfigError, match=r"data\.shorter of the baseline .*64.*32"):
        drawer_of(carafe, monkeypatch, with_resamplers("nearest", shorter=32))
    drawer = drawer_of(carafe, monkeypatch, with_resamplers("nearest"))
    assert drawer.kinds == ["maps-up", "maps-pyramid"]


def test_a_baseline_is_used_with_maps_only(tmp_path):
    with pytest.raises(ConfigError, match=r"baseline .*maps.*left"):
        print_predictions(tmp_path, [tmp_path / "a.png"], tmp_path, baseline=Path("left"))
