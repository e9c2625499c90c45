import jax
import numpy as np
import pytest

from experiments.engine.runs import LoadedRun
from experiments.engine.settings import EvaluationConfig
from experiments.pyramid.example_sums import example_sums, metrics_of
from experiments.pyramid.task import initial_state, make_evaluator
from tests.experiments.pyramid.tiny import TINY

pytestmark = pytest.mark.usefixtures("few_optimizations")


def test_sums_give_the_evaluation_of_the_run(features, folders):
    state = jax.device_get(initial_state(TINY))
    found = example_sums(LoadedRun(TINY, state, 7), folders)
    scenes = features.count("validation")
    assert (list(found.groups), found.kind) == ([str(n) for n in range(scenes)], "scenes")
    assert (list(found.records), "58 objects" in found.note) == ([*range(scenes)], True)
    network = {name: state[name] for name in ("params", "model_state")}
    logged = make_evaluator(TINY, features, EvaluationConfig(batch_size=4))(network)
    metrics = metrics_of({name: total[None] for name, total in found.totals.items()})
    assert set(metrics) == {"mIoU", "mIoU_border", "pixel_accuracy"}
    for name, (value,) in metrics.items():
        assert value == pytest.approx(logged[name])


def test_every_resample_has_its_own_metrics():
    matrices = np.array([[[4.0, 0], [0, 4]], [[2, 2], [2, 2]], [[0, 0], [0, 3]]])
    found = metrics_of({"whole": matrices, "border": matrices[::-1]})
    np.testing.assert_allclose(found["mIoU"], [1, 1 / 3, 1 / 2])  # a missing class has 0
    np.testing.assert_allclose(found["mIoU_border"], [1 / 2, 1 / 3, 1])
    np.testing.assert_allclose(found["pixel_accuracy"], [1, 1 / 2, 1])
