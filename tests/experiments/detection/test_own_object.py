import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.data.errors import DataError
from experiments.detection import own_object
from experiments.detection.data.batches import evaluation_batches
from experiments.detection.data.datasets import DetectionData
from experiments.detection.data.record_index import index_records
from experiments.detection.own_object import measure, measure_run, object_numbers
from experiments.detection.pathways import observe
from experiments.detection.task import initial_state, make_model
from experiments.engine.config import ConfigError
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig
from experiments.source_maps.instances import resized
from experiments.source_maps.own_object import add_image
from experiments.source_maps.pathways import DOWNSAMPLERS, UPSAMPLERS, compared
from tests.experiments.detection.fake_records import make_record, noise
from tests.experiments.detection.tiny import TINY

CARAFE = dataclasses.replace(
    TINY,
    model=dataclasses.replace(
        TINY.model,
        backbone=dataclasses.replace(TINY.model.backbone, downsampler="carafe"),
        neck=dataclasses.replace(TINY.model.neck, upsampler="carafe"),
    ),
)
EVALUATION = EvaluationConfig(batch_size=2)


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


@pytest.fixture(scope="module")
def state():
    """Parameters with which the kernels of CARAFE++ depend on the image."""
    found = initial_state(CARAFE)
    rng = np.random.default_rng(0)

    def widened(path, leaf):
        encoder = any("encoder" in str(key) for key in path)
        return rng.normal(size=leaf.shape).astype(np.float32) if encoder else leaf

    params = jax.tree_util.tree_map_with_path(widened, found["params"])
    return {"params": params, "model_state": found["model_state"]}


@pytest.fixture(scope="module")
def measured(few_optimizations, state):
    source = records()
    return measure(CARAFE, state, source, index_records(source), EVALUATION)


def test_a_set_is_measured_as_its_images_one_after_the_other(state, measured):
    source, model = records(), make_model(CARAFE)
    expected = {"P5 to P2": {}, "C1 to C5": {}}
    apply = jax.jit(lambda batch: observe(model, state, batch["image"], batch["size"]))
    for batch in evaluation_batches(source, index_records(source), CARAFE.data, 2):
        found = apply({name: batch[name] for name in ("image", "size")})
        for number in np.flatnonzero(batch["weight"]):
            objects = object_numbers(source[batch["record"][number]])
            if objects.any():
                instances = resized(objects, batch["size"][number])
                for pathway, methods in ((found.up, UPSAMPLERS), (found.down, DOWNSAMPLERS)):
                    of_image = compared(pathway.of_image(number), methods)
                    add_image(expected[pathway.name], of_image, instances)
    assert {name: [*means] for name, means in measured.items()} == {
        "P5 to P2": ["CARAFE++", "nearest", "bilinear", "box"],
        "C1 to C5": ["CARAFE++", "strided", "avg_pool", "box"],
    }
    for name, means in expected.items():
        for method, (every, border) in means.items():
            got = measured[name][method]
            assert (got.all.targets, got.all.objects) == (every.targets, every.objects)
            assert got.all.mean == pytest.approx(every.mean, rel=1e-3)
            assert got.border.mean == pytest.approx(border.mean, rel=1e-3)
    shares = measured["P5 to P2"]
    assert shares["box"].all.objects == 3  # not the crowd
    assert shares["CARAFE++"].all.mean != pytest.approx(shares["box"].all.mean, rel=1e-2)


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
            assert results["pathways"][name][method]["all"]["share"] == means.all.mean


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
