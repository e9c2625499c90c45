import pytest

from experiments.engine.folders import DataFolders
from experiments.engine.settings import EvaluationConfig
from experiments.segmentation import __main__ as command_line
from experiments.segmentation import spec
from experiments.segmentation.data.datasets import open_data
from experiments.segmentation.task import initial_state, make_evaluator
from tests.experiments.kernel_studies.fake_runs import (
    check_replacements,
    check_sums,
    load_instead,
    make_runs,
    with_box_kernels,
)
from tests.experiments.segmentation.tiny import TINY
from tests.experiments.source_maps.sown import sharpened

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_optimizations")]


@pytest.fixture
def call(call_main, monkeypatch, tmp_path, scenes_dir, cutouts_cache):
    """Calls a command with two runs that are not trained."""

    def call(command, change, *options):
        runs = make_runs(TINY, initial_state, change)
        load_instead(monkeypatch, spec, runs)
        folders = tmp_path / "a", tmp_path / "b", "--data-dir", scenes_dir
        options = "--cache", cutouts_cache, "--output", tmp_path / "out", *options
        return runs, *call_main(command_line.main, command, *folders, *options)

    return call


def test_runs_are_evaluated_with_replaced_kernels(call, scenes_dir, cutouts_cache, tmp_path):
    runs, code, printed, error = call("replace-kernels", sharpened, "--batch-size", 8)
    assert (code, error) == (0, "")
    data = open_data(TINY.data, DataFolders(scenes_dir, cutouts_cache))
    evaluate = make_evaluator(TINY, data, EvaluationConfig(batch_size=4))
    metrics = ("mIoU", "pixel_accuracy")
    check_replacements(tmp_path / "out", runs, evaluate, metrics, 6, printed)


def test_the_weight_inside_the_map_is_measured(call, tmp_path):
    options = "--batch-size", 4, "--split", "train"
    _, code, printed, error = call("kernel-sums", with_box_kernels, *options)
    assert (code, error) == (0, "")
    layers = [f"head/fpn_upsample_{level}" for level in (5, 4, 3)]
    check_sums(tmp_path / "out", 8, layers, printed)
    assert "8 images of train, seeds 3, 4, step 7" in printed
