"""Files of detectors with deformable convolutions become runs, and runs become the same files."""

import types

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from experiments.detection.configs import DetectionConfig
from experiments.detection.conversion import conversion
from experiments.detection.conversion.conversion import to_file, to_run
from experiments.detection.conversion.layouts import layout
from experiments.detection.model.config import DetectorConfig
from experiments.detection.task import RUNS
from experiments.engine import config as configs
from experiments.models.resnet_config import BLOCKS, ResNetConfig
from experiments.weights.loading import arrays_for_file, load
from tests.experiments.detection.conversion import key_lists
from tests.experiments.detection.conversion.networks import assert_same, narrow, random_file, shapes

DEFORMABLE = DetectorConfig(
    backbone=ResNetConfig(
        50,
        norm="frozen",
        width=2,
        deformable_stages=(False, False, False, True),
        deformable_groups=2,
    )
)


@pytest.fixture
def shallow(monkeypatch):
    """A ResNet-50 with one block in each stage, which is traced in less time."""
    monkeypatch.setitem(BLOCKS, 50, (1, 1, 1, 1))


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("library", ["mmdet", "detectron2"])
def test_the_arrays_of_a_deformable_detector_come_back_bit_for_bit(library, tmp_path):
    model = narrow(DEFORMABLE, depth=50)
    arrays = random_file(tmp_path / "a.safetensors", model, library)
    # The kernel and the bias of a block.
    assert len([name for name in arrays if "_offset." in name]) == 2
    of_library = layout(library, model)
    loaded = load(tmp_path / "a.safetensors", shapes(model), of_library)
    assert_same(arrays_for_file(loaded.variables, of_library, loaded.rest), arrays)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("library", ["mmdet", pytest.param("detectron2", marks=pytest.mark.slow)])
def test_a_deformable_detector_becomes_a_run_and_the_same_file(library, tmp_path):
    model = narrow(DEFORMABLE, depth=50)
    weights, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    arrays = random_file(weights, model, library)
    done = to_run(weights, tmp_path / "run")
    assert "ResNet-50 with deformable convolutions of 2 groups in Res-5" in done.network
    backbone = RUNS.load_config(tmp_path / "run").model.backbone
    assert backbone.deformable_stages == model.backbone.deformable_stages
    assert backbone.deformable_groups == 2
    to_file(tmp_path / "run", again, library)
    assert_same(load_file(again), arrays)


@pytest.mark.usefixtures("shallow")
def test_early_names_of_mmdet_are_read_and_new_ones_are_written(tmp_path):
    """Also where the run keeps arrays of the file for their precision."""
    model = narrow(DEFORMABLE, depth=50)
    weights = tmp_path / "a.safetensors"
    arrays = {
        name: array.astype(np.float16)
        for name, array in random_file(weights, model, "mmdet").items()
    }
    early = key_lists.renamed(arrays, {r"\.conv2\.conv_offset\.": ".conv2_offset."})
    assert early.keys() != arrays.keys()
    save_file(early, tmp_path / "early.safetensors")
    done = to_run(tmp_path / "early.safetensors", tmp_path / "run")
    assert done.names == "old"
    assert "ResNet-50 with deformable convolutions of 2 groups in Res-5" in done.network
    done = to_file(tmp_path / "run", tmp_path / "b.safetensors", "mmdet")
    assert done.names == "new"
    assert_same(load_file(tmp_path / "b.safetensors"), arrays)


def test_torchvision_has_no_deformable_convolutions(monkeypatch, tmp_path):
    loaded = types.SimpleNamespace(config=DetectionConfig(model=DEFORMABLE))
    monkeypatch.setattr(conversion, "RUNS", types.SimpleNamespace(load=lambda *_: loaded))
    message = r"^model\.backbone\.deformable_stages must be .*torchvision, got \(.*True\)$"
    with pytest.raises(configs.ConfigError, match=message):
        to_file(tmp_path / "run", tmp_path / "a.safetensors", "torchvision")
