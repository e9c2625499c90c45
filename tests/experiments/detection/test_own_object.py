import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.errors import DataError
from experiments.detection import own_object
from experiments.detection.data.batches import evaluation_batches
from experiments.detection.data.datasets import DetectionData
from experiments.detection.data.record_index import index_records
from experiments.detection.own_object import measure, measure_run, object_numbers
from experiments.detection.pathways import Observed, observe
from experiments.detection.task import initial_state, make_model
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig
from experiments.source_maps.instances import resized
from experiments.source_maps.own_object import add_image
from experiments.source_maps.pathways import (
    DOWNSAMPLERS,
    UPSAMPLERS,
    compared,
    fixed_top_down,
)
from tests.experiments.detection.fake_records import make_record, noise
from tests.experiments.detection.tiny import TINY
from tests.experiments.source_maps.fixed_pathways import fixed_bottom_up

CARAFE = dataclasses.replace(
    TINY,
    model=dataclasses.replace(
        TINY.model,
        backbone=dataclasses.replace(TINY.model.backbone, downsampler="carafe"),
        neck=dataclasses.replace(TINY.model.neck, upsampler="carafe"),
    ),
)
EVALUATION = EvaluationConfig(batch_size=4)


def mask(size, rows, columns):
    found = np.zeros(size, bool)
    found[slice(*rows), slice(*columns)] = True
    return found


def records():
    """Two images with objects, and one without; only the first is landscape."""
    wide = [mask((48, 96), (6, 40), (10, 50)), mask((48, 96), (20, 48), (60, 90))]
    high = [mask((90, 60), (30, 80), (5, 45)), mask((90, 60), (0, 20), (0, 60))]
    boxes = [[0, 0, 30, 30], [0, 0, 20, 20]]
    return [
        make_record(1, noise(48, 96), boxes, labels=[0, 1], masks=wide),
        make_record(2, noise(90, 60, 1), boxes, labels=[0, 1], masks=high, crowd=[False, True]),
        make_record(3, noise(64, 64, 2), []),
    ]


def fake_observe(model, state, image, size):
    """Pathways without a network. Each kernel mixes two pixels, according to the image."""
    centre = jnp.mean(image / 255, axis=(1, 2, 3))[:, None, None]  # [B, 1, 1]
    batch, height, width = image.shape[:3]

    def mixed(step):
        kernels = jnp.zeros((batch, *step.output_size, 9))
        kernels = kernels.at[..., 4].set(centre).at[..., 5].set(1 - centre)
        return dataclasses.replace(step, kernels=kernels, kernel_size=3)

    def of_batch(pathway):
        return dataclasses.replace(pathway, steps=tuple(map(mixed, pathway.steps)))

    sizes = [(height // stride, width // stride) for stride in (4, 8, 16, 32)]
    up = of_batch(fixed_top_down(sizes, "nearest"))
    return Observed((), up, of_batch(fixed_bottom_up((height // 2, width // 2), "strided")))


@pytest.fixture(scope="module")
def measured(few_optimizations):
    source = records()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_object, "observe", fake_observe)
        return measure(CARAFE, {}, source, index_records(source), EVALUATION)


def test_a_set_is_measured_as_its_images_one_after_the_other(measured):
    source = records()
    expected = {}
    for number, record in enumerate(source[:2]):
        (batch,) = (
            each
            for each in evaluation_batches(source, index_records(source), CARAFE.data, 1)
            if each["record"] == number
        )
        found = fake_observe(None, None, batch["image"], batch["size"])
        instances = resized(object_numbers(record), batch["size"][0])
        up, down = found.up.of_image(0), found.down.of_image(0)
        for name, pathway, methods in (
            ("P5 to P2", up, UPSAMPLERS),
            ("P3 to P2", up.last_steps(1, "P3 to P2"), UPSAMPLERS),
            ("C1 to C5", down, DOWNSAMPLERS),
        ):
            add_image(expected.setdefault(name, {}), compared(pathway, methods), instances)
    assert [*measured] == ["P5 to P2", "P4 to P2", "P3 to P2", "C1 to C5"]
    for name, means in expected.items():
        assert [*measured[name]] == [*means]
        for method, (every, border, in_image) in means.items():
            got = measured[name][method]
            assert (got.all.targets, got.all.objects) == (every.targets, every.objects)
            assert got.all.mean == pytest.approx(every.mean, rel=1e-4)
            assert got.border.mean == pytest.approx(border.mean, rel=1e-4)
            assert got.in_image.mean == pytest.approx(in_image.mean, rel=1e-4)
    assert measured["P5 to P2"]["box"].all.objects == 3  # not the crowd


def test_the_pathways_of_a_detector():
    def trace(config):
        state = initial_state(config)
        image, size = jnp.zeros((2, 64, 96, 3), jnp.uint8), jnp.full((2, 2), 64)
        return observe(make_model(config), state, image, size)

    found = jax.eval_shape(lambda: trace(CARAFE))
    assert [level.shape[1:3] for level in found.levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert (found.up.name, found.up.target_size) == ("P5 to P2", (16, 24))
    assert (found.down.name, found.down.source_size) == ("C1 to C5", (32, 48))
    found = jax.eval_shape(lambda: trace(TINY))
    assert (found.up, found.down) == (None, None)


def test_the_command_prints_and_writes_both_tables(monkeypatch, tmp_path, capsys, measured):
    source = records()
    data = DetectionData(tmp_path, source, source, None, ())
    monkeypatch.setattr(DetectionData, "index", lambda self, split: index_records(source))
    monkeypatch.setattr(own_object, "open_data", lambda config, folders: data)
    monkeypatch.setattr(own_object, "RUNS", FakeRuns(CARAFE))
    sizes = []

    def counted(config, state, source, index, evaluation):
        sizes.append((len(source), len(index)))
        return measured

    monkeypatch.setattr(own_object, "measure", counted)
    arguments = tmp_path / "run", tmp_path / "out", "validation"
    measure_run(*arguments, 2, DataFolders(), EVALUATION)
    measure_run(*arguments, None, DataFolders(), EVALUATION)
    assert sizes == [(2, 2), (3, 3)]
    printed = capsys.readouterr().out
    table = (tmp_path / "out/table.md").read_text()
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["images"] == 3
    for name, methods in measured.items():
        assert f"{name}, 3 images of validation, step 7" in printed
        for method, means in methods.items():
            assert f"| {method} | {means.all.objects} | {means.all.targets} | " in table
            assert results["pathways"][name][method]["all"]["mean"] == means.all.mean


class FakeRuns:
    def __init__(self, config):
        self._config = config

    def load_config(self, folder):
        return self._config

    def load(self, folder, checkpoint):
        return LoadedRun(self._config, {"params": {}, "model_state": {}}, 7)


def test_what_cannot_be_measured_is_refused(monkeypatch, tmp_path):
    def refused(config, match, split="validation", images=None, error=ConfigError):
        monkeypatch.setattr(own_object, "RUNS", FakeRuns(config))
        with pytest.raises(error, match=match):
            measure_run(tmp_path, tmp_path, split, images, DataFolders(), EVALUATION)

    refused(TINY, "'nearest' and 'strided'")
    refused(CARAFE, "split .*'test'", split="test")
    refused(CARAFE, "images .*0", images=0)
    boxes = dataclasses.replace(CARAFE.data, source="coco_boxes", mask_side=None)
    model = dataclasses.replace(CARAFE.model, masks=False)
    refused(
        dataclasses.replace(CARAFE, data=boxes, model=model), "masks .*coco_boxes", error=DataError
    )


def test_an_object_without_a_mask_is_named():
    record = make_record(4, noise(8, 8), [[0, 0, 4, 4]])
    with pytest.raises(DataError, match="object 4000 of image 4 must have a mask"):
        object_numbers(record)
