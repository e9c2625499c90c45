"""Files of the installed PyTorch are read, and ours are read by it."""

import argparse
import collections
import importlib

import numpy as np
import pytest

from experiments.weights.dtypes import TORCH_DTYPES
from experiments.weights.files import WeightsError, open_weights
from experiments.weights.writing import write_weights

pytestmark = pytest.mark.torch

WITH_NUMPY = [name for name, dtype in TORCH_DTYPES.items() if dtype.numpy is not None]
FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
# PyTorch warns of dtypes and layouts that it calls experimental.
EXPERIMENTAL = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


def save(torch, content, path, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def bits(torch, tensor):
    """Shape and bytes of a tensor."""
    dense = tensor.detach().resolve_neg().resolve_conj().contiguous()
    return tuple(tensor.shape), bytes(dense.reshape(-1).view(torch.uint8).numpy())


def read(path):
    with open_weights(path) as entries:
        return {name: entry.read() for name, entry in entries.items()}


def assert_equal_bits(torch, arrays, tensors):
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (arrays[name].shape, arrays[name].tobytes()) == bits(torch, tensor), name


def random(torch, dtype, count=24):
    data = torch.randint(0, 256, (count * TORCH_DTYPES[dtype].itemsize,), dtype=torch.uint8)
    return (data % 2 if dtype == "bool" else data).view(getattr(torch, dtype))


@FORMATS
@EXPERIMENTAL
@pytest.mark.parametrize("dtype", WITH_NUMPY)
def test_dtypes_are_read(dtype, zipped, torch, tmp_path):
    tensor = random(torch, dtype).reshape(2, 3, 4)
    tensors = {"a": tensor, "b": tensor.mT, "c": tensor[0, 0, 0], "d": tensor[:0]}
    path = save(torch, tensors, tmp_path / "w.pth", zipped)
    assert_equal_bits(torch, read(path), tensors)
    with open_weights(path) as entries:
        assert {entry.dtype for entry in entries.values()} == {str(tensor.dtype)}
        assert {entry.is_floating for entry in entries.values()} == {
            TORCH_DTYPES[dtype].is_floating
        }


@FORMATS
def test_views_of_one_storage_are_read(zipped, torch, tmp_path):
    base = torch.randn(2, 3, 4, 5)
    tensors = {
        "base": base,
        "part": base[1, 1:, ::2],
        "channels_last": base.to(memory_format=torch.channels_last),
        "transposed": base.permute(3, 1, 0, 2),
        "diagonal": torch.diagonal(base, dim1=1, dim2=2),
        "parameter": torch.nn.Parameter(base[0]),
        "named": torch.nn.Parameter(torch.ones(3)),
    }
    tensors["named"].note = "a tensor with attributes"
    path = save(torch, tensors, tmp_path / "w.pth", zipped)
    assert_equal_bits(torch, read(path), tensors)


@FORMATS
def test_a_training_is_read(zipped, torch, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3, 9, 9)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 11])
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "args": argparse.Namespace(device=torch.device("cpu"), shape=torch.Size([2, 3])),
        "best": np.float64(0.5),
        "losses": np.arange(3.0),
        "more": collections.defaultdict(list, a=[1]),
        "dtype": torch.float32,
    }
    path = save(torch, content, tmp_path / "w.pth", zipped)
    assert_equal_bits(torch, read(path), model.state_dict())


@FORMATS
@EXPERIMENTAL
def test_tensors_without_plain_values_are_marked(zipped, torch, tmp_path):
    tensors = {
        "coo": torch.eye(3).to_sparse(),
        "csr": torch.eye(3).to_sparse_csr(),
        "csc": torch.eye(3).to_sparse_csc(),
        "meta": torch.empty(3, 3, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
        "by_channel": torch.quantize_per_channel(
            torch.eye(3), torch.ones(3), torch.zeros(3), 0, torch.qint8
        ),
        "negated": torch.eye(3).to(torch.complex64).conj().imag,
    }
    path = save(torch, tensors, tmp_path / "w.pth", zipped)
    with open_weights(path) as entries:
        assert entries.keys() == tensors.keys()
        for name, entry in entries.items():
            assert (entry.shape, entry.is_floating) == ((3, 3), False), name
            with pytest.raises(WeightsError, match=r"w\.pth holds values of torch\."):
                entry.read()


@FORMATS
def test_a_whole_model_is_refused_by_name(zipped, torch, tmp_path):
    path = save(torch, torch.nn.Linear(2, 2), tmp_path / "w.pth", zipped)
    with pytest.raises(WeightsError, match=r"holds torch\.nn\.modules\.linear\.Linear, which"):
        read(path)


@EXPERIMENTAL
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", WITH_NUMPY)
def test_our_files_are_read_by_pytorch(dtype, mapped, torch, tmp_path):
    array = random(torch, dtype).view(torch.uint8).numpy().view(TORCH_DTYPES[dtype].numpy)
    array = array.reshape(2, 3, 4)
    arrays = {"a": array, "b.weight": array.T, "c": array[0, 0, 0], "d": array[:0]}
    write_weights(tmp_path / "w.pth", arrays)
    tensors = torch.load(tmp_path / "w.pth", weights_only=True, mmap=mapped)
    assert type(tensors) is collections.OrderedDict
    assert_equal_bits(torch, arrays, tensors)
    for name, tensor in tensors.items():
        assert (tensor.dtype, tensor.is_contiguous()) == (getattr(torch, dtype), True)
        assert tensor.untyped_storage().nbytes() == arrays[name].nbytes
        assert tensor.stride() == torch.empty(tensor.shape).stride()


def test_our_safetensors_are_read_by_its_library(torch, tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.ones(2, "bfloat16")}
    write_weights(tmp_path / "w.safetensors", arrays)
    tensors = importlib.import_module("safetensors.torch").load_file(tmp_path / "w.safetensors")
    assert_equal_bits(torch, arrays, tensors)
