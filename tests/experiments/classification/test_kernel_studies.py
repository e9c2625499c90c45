import numpy as np
import pytest

from experiments.classification import __main__ as command_line
from experiments.classification import spec
from experiments.classification.batches import open_data
from experiments.classification.task import initial_state, make_evaluator
from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from tests.experiments.classification.tiny import TINY
from tests.experiments.kernel_studies.fake_runs import (
    check_replacements,
    check_sums,
    load_instead,
    make_runs,
    with_box_kernels,
)
from tests.experiments.source_maps.sown import sharpened

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_optimizations")]


@pytest.fixture
def call(call_main, monkeypatch, tmp_path, digits_dir):
    """Calls a command with two runs that are not trained."""

    def call(command, change):
        runs = make_runs(TINY, initial_state, change)
        load_instead(monkeypatch, spec, runs)
        folders = tmp_path / "a", tmp_path / "b", "--data-dir", digits_dir
        options = "--output", tmp_path / "out", "--batch-size", 64
        return runs, *call_main(command_line.main, command, *folders, *options)

    return call


def test_runs_are_evaluated_with_replaced_kernels(call, digits_dir, tmp_path):
    runs, code, printed, error = call("replace-kernels", sharpened)
    assert (code, error) == (0, "")
    data = open_data(TINY.data, DataFolders(digits_dir))
    evaluate = make_evaluator(TINY, data, EvaluationConfig(batch_size=64))
    metrics, images = ("top1", "top5", "loss"), len(data.validation)
    results = check_replacements(tmp_path / "out", runs, evaluate, metrics, images, printed)
    losses = [each["metrics"]["loss"]["mean"] for each in results["kernels"].values()]
    assert len(set(losses)) == len(losses)
    for layers in results["mean_kernels"].values():
        assert len(layers) == 7
        for kernels in layers.values():
            np.testing.assert_allclose(np.sum(kernels, axis=-1), 1, rtol=1e-5)
    assert "all pixels count for mean, in the layers" in printed


def test_the_weight_inside_the_map_is_measured(call, digits_dir, tmp_path):
    _, code, printed, error = call("kernel-sums", with_box_kernels)
    assert (code, error) == (0, "")
    images = len(open_data(TINY.data, DataFolders(digits_dir)).validation)
    layers = [
        "pool",
        *(f"layer{n}_0/{name}" for n in (2, 3, 4) for name in ("downsample_resample", "resample")),
    ]
    check_sums(tmp_path / "out", images, layers, printed)
