import dataclasses

import jax
import numpy as np
import pytest

from experiments.classification import example_sums as module
from experiments.classification import task
from experiments.classification.batches import ClassificationData, open_data
from experiments.classification.data_config import DataConfig
from experiments.classification.example_sums import example_sums
from experiments.classification.task import initial_state, make_evaluator
from experiments.data.errors import DataError
from experiments.engine.folders import DataFolders
from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig
from experiments.engine.tables.statistics import means_of
from tests.experiments.classification.test_task import Linear
from tests.experiments.classification.tiny import TINY

pytestmark = pytest.mark.usefixtures("few_optimizations")


@pytest.fixture
def data(digits_dir, monkeypatch):
    """45 validation images, so that the last batch is incomplete; the cutout is the digit's."""
    monkeypatch.setattr(task, "make_model", lambda config: Linear())
    monkeypatch.setattr(module, "make_model", lambda config: Linear())
    whole = open_data(TINY.data, DataFolders(digits_dir))
    records = [dict(whole.validation[number]) for number in range(45)]
    for record in records:
        record["cutout"] = f"digits/{record['label']}".encode()
    data = ClassificationData(whole.train, records, whole.class_names)
    monkeypatch.setattr(module, "open_data", lambda *_: data)
    return data


def test_sums_give_the_evaluation_of_the_run(data):
    state = jax.device_get(initial_state(TINY))
    found = example_sums(LoadedRun(TINY, state, 7), DataFolders())
    assert found.sums["top1"].shape == (45,)
    assert {*np.unique(found.sums["top5"])} == {0, 1}
    expected = make_evaluator(TINY, data, EvaluationConfig(batch_size=16))(state)
    del expected["loss"]
    assert means_of(found.totals) == pytest.approx(expected)
    assert (found.groups, found.kind) == ([str(number) for number in range(45)], "images")
    assert not found.note


def test_images_of_one_object_are_a_group(data):
    cutouts = dataclasses.replace(TINY, data=DataConfig("cutouts", 32, 32))
    state = jax.device_get(initial_state(TINY))
    found = example_sums(LoadedRun(cutouts, state, 7), DataFolders())
    assert found.groups == [f"digits/{record['label']}" for record in data.validation]
    assert found.records == [*range(45)]
    assert found.kind == "cut-out objects"
    assert "share a photograph" in found.note


def test_images_without_the_name_of_their_object_are_an_error(data):
    cutouts = dataclasses.replace(TINY, data=DataConfig("cutouts", 32, 32))
    del data.validation[3]["cutout"]
    state = jax.device_get(initial_state(TINY))
    with pytest.raises(DataError, match=r"record 3.*'cutout'.*label"):
        example_sums(LoadedRun(cutouts, state, 7), DataFolders())
