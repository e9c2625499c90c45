import pytest

from experiments.engine.settings import EvaluationConfig
from experiments.pyramid import __main__ as command_line
from experiments.pyramid import spec
from experiments.pyramid.task import initial_state, make_evaluator
from tests.experiments.kernel_studies.fake_runs import (
    check_replacements,
    check_sums,
    load_instead,
    make_runs,
    with_box_kernels,
)
from tests.experiments.pyramid.tiny import TINY
from tests.experiments.source_maps.sown import sharpened

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_optimizations")]
LAYERS = ["upsample_5", "upsample_4", "upsample_3"]


@pytest.fixture
def call(call_main, monkeypatch, tmp_path, folders):
    """Calls a command with two runs that are not trained."""

    def call(command, change):
        runs = make_runs(TINY, initial_state, change)
        load_instead(monkeypatch, spec, runs)
        data = "--data-dir", folders.data_dir, "--cache", folders.cache
        options = "--output", tmp_path / "out", "--batch-size", 8
        inputs = tmp_path / "a", tmp_path / "b"
        return runs, *call_main(command_line.main, command, *inputs, *data, *options)

    return call


def test_runs_are_evaluated_with_replaced_kernels(call, features, tmp_path):
    runs, code, printed, error = call("replace-kernels", sharpened)
    assert (code, error) == (0, "")
    evaluate = make_evaluator(TINY, features, EvaluationConfig(batch_size=8))
    metrics, scenes = ("mIoU", "pixel_accuracy"), features.count("validation")
    results = check_replacements(tmp_path / "out", runs, evaluate, metrics, scenes, printed)
    assert all([*each] == LAYERS for each in results["mean_kernels"].values())


def test_the_weight_inside_the_map_is_measured(call, features, tmp_path):
    _, code, printed, error = call("kernel-sums", with_box_kernels)
    assert (code, error) == (0, "")
    check_sums(tmp_path / "out", features.count("validation"), LAYERS, printed)
