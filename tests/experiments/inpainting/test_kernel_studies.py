import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from PIL import Image

from carafe_jax.linen import collect_reassemblies
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.inpainting import __main__ as command_line
from experiments.inpainting import spec
from experiments.inpainting.data.batches import evaluation_batches, open_data
from experiments.inpainting.evaluation import make_evaluator
from experiments.inpainting.fill import make_generator, variables_of
from experiments.inpainting.metrics import METRICS
from experiments.inpainting.pixels import to_unit
from experiments.inpainting.task import initial_state
from tests.experiments.inpainting.tiny import TINY
from tests.experiments.kernel_studies.fake_runs import (
    check_replacements,
    load_instead,
    make_runs,
)
from tests.experiments.source_maps.sown import sharpened
from tests.kernels import oracle

pytestmark = pytest.mark.usefixtures("few_optimizations")

LAYERS = ["down_1/resample/carafe", "up_1/resample/carafe"]


@pytest.fixture
def call(call_main):
    return functools.partial(call_main, command_line.main)


@pytest.fixture
def images(tmp_path):
    """A folder of 42 images. The validation images are five."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(42):
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def arguments(tmp_path, images):
    return tmp_path / "a", tmp_path / "b", "--images", images, "--output", tmp_path / "out"


def fake(monkeypatch):
    runs = make_runs(TINY, initial_state, sharpened)
    load_instead(monkeypatch, spec, runs)
    return runs


@pytest.mark.slow
def test_runs_are_evaluated_with_replaced_kernels(call, arguments, images, tmp_path, monkeypatch):
    runs = fake(monkeypatch)
    # Two images for each of four devices: the fifth image is alone, and the last device has none.
    code, printed, error = call("replace-kernels", *arguments, "--batch-size", 8)
    assert (code, error) == (0, "")
    config = dataclasses.replace(TINY, data=TINY.data.with_images(images))
    data = open_data(config.data, DataFolders(tmp_path))
    evaluate = make_evaluator(config, data, EvaluationConfig(batch_size=4))
    results = check_replacements(
        tmp_path / "out", runs, lambda state: evaluate(variables_of(state)), METRICS, 5, printed
    )
    psnr = [each["metrics"]["psnr_hole"]["mean"] for each in results["kernels"].values()]
    assert len(set(psnr)) == len(psnr)
    for layers in results["mean_kernels"].values():
        assert {name: np.shape(each) for name, each in layers.items()} == {
            LAYERS[0]: (1, 1, 25),
            LAYERS[1]: (2, 2, 25),
        }
        for kernels in layers.values():
            np.testing.assert_allclose(np.sum(kernels, axis=-1), 1, rtol=1e-5)


def shares(model, states, batches):
    """Mean shares of the weight inside the map of each state and layer: at the border, and of all.

    The oracle gives the taps inside the map.
    """
    layers = {}

    @jax.jit
    def kernels_of(variables, image, mask):
        _, steps = collect_reassemblies(model, variables, to_unit(image), mask)
        layers.update({step.name: step for step in steps})
        return {step.name: step.kernels for step in steps}

    def shares_of(variables):
        found = {}
        for batch in batches:
            predicted = kernels_of(variables, batch["image"], np.float32(batch["mask"]))
            for name, kernels in predicted.items():
                step = layers[name]
                kernels = np.float64(kernels)[batch["weight"] > 0]
                inside = np.zeros(kernels.shape[:3])
                for (row, column), _, tap in oracle.reads(
                    step.size, step.kernel_size, step.up, step.down
                ):
                    inside[:, row, column] += kernels[:, row, column, tap]
                found.setdefault(name, []).append(inside / kernels.sum(axis=-1))
        result = {}
        for name, parts in found.items():
            share, step = np.concatenate(parts), layers[name]
            rows, columns = (
                np.array([oracle.centre(i, step.up, step.down) for i in range(outputs)])
                for outputs in share.shape[1:]
            )
            last_row, last_column = step.size[0] - 1, step.size[1] - 1
            row_at_border = (rows == 0) | (rows == last_row)
            column_at_border = (columns == 0) | (columns == last_column)
            at_border = row_at_border[:, None] | column_at_border[None, :]
            result[name] = share[:, at_border].mean(), share.mean()
        return result

    return [shares_of(variables_of(state)) for state in states]


def test_the_share_of_the_weight_inside_the_map_is_measured(
    call, arguments, images, tmp_path, monkeypatch
):
    runs = fake(monkeypatch)
    code, printed, error = call("kernel-sums", *arguments, "--batch-size", 4)
    assert (code, error) == (0, "")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["images"] == 5
    assert list(results["layers"]) == LAYERS
    config = dataclasses.replace(TINY, data=TINY.data.with_images(images))
    batches = evaluation_batches(open_data(config.data, DataFolders(tmp_path)), config.data, 4)
    model = make_generator(TINY)
    expected = shares(model, [run.state for run in runs.loaded.values()], batches)
    for name, layer in results["layers"].items():
        border, every = np.mean([each[name] for each in expected], axis=0)
        assert layer["carafe"][0]["mean"] == pytest.approx(border, rel=1e-4)
        assert layer["carafe_all"]["mean"] == pytest.approx(every, rel=1e-4)
        assert abs(border - layer["box"][0]["mean"]) > 0.01
        assert name in printed
    down, up = results["layers"].values()
    # Along an axis, a window centred 0, 1 or 2 pixels from the border has 3, 4 or 5 of 5 taps.
    assert down["box"][2]["mean"] == pytest.approx(1)
    assert up["box"][2]["mean"] == pytest.approx(1)
    inside = np.array([3, 4, 5, 5, 5, 5, 4, 3]) / 5
    assert up["box_all"]["mean"] == pytest.approx(np.outer(inside, inside).mean())


@pytest.mark.parametrize("command", ["replace-kernels", "kernel-sums"])
def test_runs_that_cannot_be_studied_are_named(call, command, arguments, tmp_path, monkeypatch):
    def abstract_state(config):
        return jax.eval_shape(lambda: initial_state(config))

    runs = make_runs(TINY, abstract_state)
    load_instead(monkeypatch, spec, runs)
    plain = dataclasses.replace(
        TINY, model=dataclasses.replace(TINY.model, downsampler="strided", upsampler="nearest")
    )
    run = runs.loaded["b"]
    runs.loaded["wider"] = run._replace(config=dataclasses.replace(run.config, ema_decay=0.5))
    runs.loaded["same"] = run
    runs.loaded["plain"] = run._replace(config=plain, state=abstract_state(plain))
    *_, flag, images, option, output = arguments

    def error_of(*names, size=8):
        folders = [tmp_path / name for name in names]
        code, _, error = call(command, *folders, flag, images, option, output, "--batch-size", size)
        assert code == 2
        return error

    assert "a and wider with ema_decay: 0.9 -> 0.5" in error_of("a", "wider")
    assert "runs must be of different seeds, got [3, 4, 4]" in error_of("a", "b", "same")
    assert "runs must be all different" in error_of("a", "a")
    assert "runs must have networks with CARAFE++" in error_of("plain")
    assert "missing holds no run" in error_of("a", "missing")
    assert "batch_size must be a multiple of 4" in error_of("a", size=6)
    if command == "replace-kernels":
        assert "batch_size must be at least two images" in error_of("a", size=4)
    assert not output.exists()
