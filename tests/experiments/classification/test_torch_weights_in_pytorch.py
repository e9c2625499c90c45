"""Compares with PyTorch: its networks, and the files that it writes."""

import argparse
import functools
import importlib
import os
import pathlib

import jax
import numpy as np
import pytest

from experiments.classification import torch_weights
from experiments.models.resnet import ResNet
from experiments.models.resnet_config import ResNetConfig
from experiments.weights.loading import WeightsError
from tests.experiments.weights.torch_states import (
    assert_equal,
    unset,
)


def load_torch_resnet(*arguments, **options):
    return torch_weights.load_torch_resnet(*arguments, **options).variables


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


@pytest.fixture(scope="module", params=["torchvision", "timm"])
def package(request):
    return request.param


@functools.cache
def torch_model(package, depth):
    """Returns a random network in evaluation mode, whose normalisation is not the identity."""
    torch = importlib.import_module("torch")
    torch.manual_seed(depth)
    if package == "timm":
        model = importlib.import_module("timm").create_model(f"resnet{depth}")
    else:
        models = importlib.import_module("torchvision.models")
        model = models.get_model(f"resnet{depth}", weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.3, 0.9)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    torch.nn.init.normal_(model.fc.weight, 0, 0.05)
    return model.eval()


@functools.cache
def jitted(depth):
    return jax.jit(ResNet(ResNetConfig(depth=depth), 1000).apply, static_argnames=("method",))


def unset_standard(depth):
    return unset(ResNet(ResNetConfig(depth=depth), 1000))


def save_torch(state, folder, suffix):
    path = folder / f"weights{suffix}"
    if suffix == ".pth":
        importlib.import_module("torch").save(state, path)
    else:
        importlib.import_module("safetensors.torch").save_file(state, path)
    return path


def images(*size):
    return np.random.default_rng(0).standard_normal((*size, 3), np.float32)


def channels_first(x):
    return importlib.import_module("torch").from_numpy(x.transpose(0, 3, 1, 2))


def standard_deviations_are_of_order_one(*maps):
    return all(0.2 < np.std(array) < 5 for array in maps)


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("depth", [18, 50])
def test_logits_equal_pytorchs(depth, package, suffix, torch, tmp_path):
    reference = torch_model(package, depth)
    path = save_torch(reference.state_dict(), tmp_path, suffix)
    variables = load_torch_resnet(path, unset_standard(depth))
    for x in images(2, 64, 64), images(1, 75, 91):
        with torch.no_grad():
            expected = reference(channels_first(x)).numpy()
        assert standard_deviations_are_of_order_one(expected)
        np.testing.assert_allclose(jitted(depth)(variables, x), expected, rtol=0, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("depth", [18, 50])
def test_features_equal_torchvisions(depth, torch, tmp_path):
    reference = torch_model("torchvision", depth)
    path = save_torch(reference.state_dict(), tmp_path, ".safetensors")
    variables = load_torch_resnet(path, unset_standard(depth))
    for x in images(2, 64, 64), images(1, 75, 91):
        features = jitted(depth)(variables, x, method="features")
        with torch.no_grad():
            y = reference.maxpool(reference.relu(reference.bn1(reference.conv1(channels_first(x)))))
            for stage, ours in enumerate(features, start=1):
                y = getattr(reference, f"layer{stage}")(y)
                expected = y.numpy().transpose(0, 2, 3, 1)
                assert standard_deviations_are_of_order_one(expected)
                np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("depth", [18, 50])
def test_training_differs_only_in_the_running_variance(depth, torch, tmp_path):
    variables = load_torch_resnet(
        save_torch(torch_model("torchvision", depth).state_dict(), tmp_path, ".safetensors"),
        unset_standard(depth),
    )
    reference = importlib.import_module("copy").deepcopy(torch_model("torchvision", depth)).train()
    norms = [norm for norm in reference.modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    before = [norm.running_var.clone() for norm in norms]
    values = {}
    for norm in norms:
        norm.register_forward_hook(
            lambda norm, inputs, _: values.update({norm: inputs[0][:, 0].numel()})
        )
    x = images(4, 96, 96)
    with torch.no_grad():
        expected = reference(channels_first(x)).numpy()
        for norm, old in zip(norms, before, strict=True):
            n = values[norm]
            norm.running_var = 0.9 * old + (norm.running_var - 0.9 * old) * (n - 1) / n
    biased = load_torch_resnet(
        save_torch(reference.state_dict(), tmp_path, ".safetensors"), variables
    )["batch_stats"]
    model = ResNet(ResNetConfig(depth=depth), 1000)
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, updated = train(variables, x)
    assert standard_deviations_are_of_order_one(expected)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, updated["batch_stats"], biased)


@pytest.mark.torch
@pytest.mark.parametrize(
    "key", ["state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema"]
)
def test_training_checkpoints_are_unpacked(key, torch, tmp_path):
    reference = torch_model("torchvision", 18)
    expected = load_torch_resnet(
        save_torch(reference.state_dict(), tmp_path, ".safetensors"), unset_standard(18)
    )
    content = {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu")),
        key: torch.nn.DataParallel(reference).state_dict() | {"n_averaged": torch.tensor(9)},
        "optimizer": torch.optim.SGD(reference.parameters()).state_dict(),
    }
    path = save_torch(content, tmp_path, ".pth")
    assert_equal(load_torch_resnet(path, unset_standard(18)), expected)


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_half_precision_of_pytorch_becomes_float32(suffix, torch, tmp_path):
    state = {
        name: tensor.bfloat16() if tensor.is_floating_point() else tensor
        for name, tensor in torch_model("torchvision", 18).state_dict().items()
    }
    loaded = load_torch_resnet(save_torch(state, tmp_path, suffix), unset_standard(18))
    assert loaded["params"]["fc"]["bias"].dtype == np.float32
    assert_equal(loaded["params"]["fc"]["bias"], state["fc.bias"].float().numpy())


class Trap:
    """Makes a folder when unpickled, by a function unknown to PyTorch or blocked by it."""

    def __init__(self, path, function):
        self.path, self.function = path, function

    def __reduce__(self):
        return self.function, (self.path,)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("function", "name"), [(pathlib.Path.mkdir, r"pathlib\.Path"), (os.mkdir, r"posix\.mkdir")]
)
def test_pickled_code_is_refused_and_not_run(function, name, torch, tmp_path):
    state, traces = torch_model("torchvision", 18).state_dict(), tmp_path / "traces"
    path = save_torch({"state_dict": state, "trap": Trap(traces, function)}, tmp_path, ".pth")
    with pytest.raises(WeightsError, match=rf"weights\.pth.* {name},.*safe to unpickle"):
        load_torch_resnet(path, unset_standard(18))
    assert not traces.exists()
    torch.load(path, weights_only=False)
    assert traces.exists()  # unpickling without protection runs the code


@pytest.mark.torch
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1000], lambda _: b"", lambda _: b"text " * 9]
)
def test_pickles_that_are_damaged_are_refused(damage, torch, tmp_path):
    path = save_torch(torch_model("torchvision", 18).state_dict(), tmp_path, ".pth")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"weights\.pth.*damaged"):
        load_torch_resnet(path, unset_standard(18))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "list"),
        ({"epoch": 3}, "'epoch'.* int"),
        ({"model": {"net": {}}}, "'net'.* dict"),
        ({1: 2}, " 1 .* int"),
    ],
)
def test_pickles_without_a_state_dict_are_refused(content, message, torch, tmp_path):
    with pytest.raises(WeightsError, match=rf"weights\.pth.*state_dict.*{message}"):
        load_torch_resnet(save_torch(content, tmp_path, ".pth"), unset_standard(18))


@pytest.mark.torch
def test_quantised_weights_of_pytorch_are_refused(torch, tmp_path):
    state = torch_model("torchvision", 18).state_dict() | {"fc.bias": torch.ones(1000).to(int)}
    with pytest.raises(WeightsError, match=r"fc\.bias.*torch\.int64"):
        load_torch_resnet(save_torch(state, tmp_path, ".pth"), unset_standard(18))


@pytest.mark.torch
def test_a_missing_pickle_is_reported(torch, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth"):
        load_torch_resnet(tmp_path / "none.pth", unset_standard(18))
