"""Files become runs, and runs become the same files."""

import functools

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.data.coco import OFFICIAL_IDS
from experiments.detection import __main__ as command_line
from experiments.detection.conventions import with_convention
from experiments.detection.task import RUNS, read_categories
from tests.experiments.detection.conversion.networks import CARAFE, detector, narrow, random_file

COUNTERS = {f"backbone.bn{index}.num_batches_tracked": np.array(7) for index in (1, 2)}
CONSTANTS = {"pixel_mean": np.ones((3, 1, 1), np.float32)}
# The network, its library, the version of the names, and arrays that the network does not use.
FILES = {
    "torchvision": (detector(masks=True), "torchvision", "old", {}),
    "mmdet": (detector(masks=True, neck=CARAFE, mask="carafe"), "mmdet", "new", COUNTERS),
    "detectron2": (detector(), "detectron2", "new", CONSTANTS),
}


@pytest.fixture
def call(call_main):
    return functools.partial(call_main, command_line.main)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_becomes_a_run_and_the_same_file(name, call, tmp_path):
    model, library, names, extra = FILES[name]
    model = narrow(model)
    weights, run, again = (tmp_path / each for each in ("a.safetensors", "run", "b.safetensors"))
    arrays = random_file(weights, model, library, names, extra)

    code, printed, error = call("convert", "--weights", weights, "--output", run)
    assert (code, error) == (0, "")
    assert f"format         {library}" in printed
    unused = "1 array" if len(extra) == 1 else f"{len(extra)} arrays" if extra else "none"
    assert f"not used       {unused}" in printed

    config = RUNS.load_config(run)
    assert with_convention(config, library).data == config.data
    assert config.model.neck == model.neck
    assert config.model.masks == model.masks
    assert [category.id for category in read_categories(run, 80)] == [*OFFICIAL_IDS]

    code, printed, error = call("convert", "--to", library, "--run", run, "--output", again)
    assert (code, error) == (0, "")
    assert "setting" not in printed
    assert_same(load_file(again), arrays)
