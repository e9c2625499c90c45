"""The lists of names against the networks, and the files that are written, in PyTorch."""

import importlib

import numpy as np
import pytest

from experiments.data.coco_names import CATEGORIES
from experiments.detection.conversion.conversion import to_file, to_run
from experiments.detection.conversion.layouts import layout
from experiments.weights.loading import arrays_for_file
from tests.experiments.detection.conversion import key_lists, write_keys
from tests.experiments.detection.conversion.in_pytorch import detectron2_twins, mmdet_twins, torch
from tests.experiments.detection.conversion.networks import LISTS, shapes

pytestmark = pytest.mark.torch


def test_the_lists_are_those_of_the_networks():
    for name, content in write_keys.lists().items():
        assert (key_lists.FOLDER / f"{name}.txt").read_text() == content, name


def test_the_categories_are_those_of_torchvision():
    names = importlib.import_module("torchvision.models._meta")._COCO_CATEGORIES
    assert [names[category.id] for category in CATEGORIES] == [each.name for each in CATEGORIES]


def zeros(name):
    """The arrays of a new file for the network of a list, which was not converted."""
    model, library, names = LISTS[name]
    zero = np.zeros((), np.float32)
    leaves = importlib.import_module("jax").tree.map(
        lambda leaf: np.broadcast_to(zero, leaf.shape), shapes(model)
    )
    return arrays_for_file(leaves, layout(library, model, names))


@pytest.mark.parametrize("name", ["torchvision_mask", "torchvision_mask_old"])
def test_torchvision_loads_written_arrays_with_both_versions_of_its_names(name):
    detection = importlib.import_module("torchvision.models.detection")
    model = detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {key: torch().from_numpy(array.copy()) for key, array in zeros(name).items()}
    model.load_state_dict(state, strict=True)
    assert not model.roi_heads.box_predictor.bbox_pred.weight.any()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("mmdet_mask_carafe", lambda: mmdet_twins().Mmdet(masks=True, carafe=True)),
        ("detectron2_mask_r50", lambda: detectron2_twins().Detectron2(masks=True)),
    ],
)
def test_the_twins_load_written_arrays(name, make):
    state = {key: torch().from_numpy(array.copy()) for key, array in zeros(name).items()}
    make().load_state_dict(state, strict=True)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_pytorch_comes_back_bit_for_bit(suffix, tmp_path):
    """A Mask R-CNN with CARAFE of full size, with its counters."""
    torch().manual_seed(0)
    state = mmdet_twins().Mmdet(masks=True, carafe=True).state_dict()
    weights, again = tmp_path / f"weights{suffix}", tmp_path / f"again{suffix}"
    files = importlib.import_module("safetensors.torch")
    if suffix == ".pth":
        torch().save({"state_dict": state, "meta": {"epoch": 12}}, weights)
    else:
        files.save_file(state, weights)
    done = to_run(weights, tmp_path / "run")
    assert done.used == len(state) - 53
    to_file(tmp_path / "run", again, "mmdet")
    found = torch().load(again) if suffix == ".pth" else files.load_file(again)
    assert found.keys() == state.keys()
    for name, array in state.items():
        assert found[name].dtype == array.dtype
        assert torch().equal(found[name], array), name
