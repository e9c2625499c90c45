"""Compares the networks, resizing and adaptive pooling with PyTorch."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.resnet_config import ResNetConfig
from experiments.resamplers.interpolation import resize
from experiments.resamplers.pooling import adaptive_avg_pool
from experiments.segmentation.model.config import SegmenterConfig
from experiments.segmentation.model.segmenter import Segmenter
from tests.compilation import jit
from tests.experiments.variables import scaled_variables

CLASSES = 5
NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
CASES = [
    ("upernet", "deep", {}),
    ("upernet", "deep", {"pooling_order": "convolution_first"}),
    ("upernet", "v1c", {"auxiliary": True}),
    ("pspnet", "v1c", {"pooling_order": "convolution_first", "auxiliary": True}),
    ("pspnet", "deep", {}),
    ("psanet", "deep", {"mask_side": 7}),
    ("psanet", "v1c", {"mask_side": 4, "auxiliary": True}),
]


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


def images(*size):
    return np.random.default_rng(0).standard_normal((*size, 3), np.float32)


def channels_first(x):
    return importlib.import_module("torch").from_numpy(
        np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    )


def channels_last(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def config(architecture, stem, fields):
    stride = 32 if architecture == "upernet" else 8
    backbone = ResNetConfig(50, output_stride=stride, width=4, stem=stem)
    return SegmenterConfig(architecture, backbone, 8, norm="batch", **fields)


def torch_network(config, variables):
    """Returns the network of PyTorch with the given variables."""
    networks = importlib.import_module("tests.experiments.segmentation.model.torch_networks")
    torch = importlib.import_module("torch")
    network = networks.Segmenter(config, CLASSES)
    axes = {4: (3, 2, 0, 1), 1: (0,)}
    state = {
        ".".join(NAMES.get(key.key, key.key) for key in path[1:]): torch.from_numpy(
            np.ascontiguousarray(leaf.transpose(axes[leaf.ndim]))
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    missing = network.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return network


def assert_close(found, expected, tolerance=1e-4):
    assert (found is None) == (expected is None)
    if found is not None:
        expected = channels_last(expected)
        assert np.std(expected) > 0.05
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=tolerance * float(np.abs(expected).max())
        )


@functools.cache
def both_networks(case):
    ours = Segmenter(config(*CASES[case]), CLASSES)
    variables = scaled_variables(ours, images(1, 64, 64), method="layers")
    return ours, variables, torch_network(ours.config, variables)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("case", "size"),
    [*((case, (75, 57)) for case in range(len(CASES))), *((case, (64, 96)) for case in (0, 3, 5))],
)
def test_logits_equal_pytorchs(case, size, torch):
    ours, variables, network = both_networks(case)
    x = images(2, *size)
    with torch.no_grad():
        expected = network.eval()(channels_first(x))
    found = jit(functools.partial(ours.apply, method="layers"))(variables, x)
    for logits, by_torch in zip(found, expected, strict=True):
        assert_close(logits, by_torch)


@pytest.mark.torch
@pytest.mark.parametrize("case", [1, 3, 5])
def test_logits_in_training_equal_pytorchs(case, torch):
    ours, variables, network = both_networks(case)
    x = images(4, 65, 96)
    apply = functools.partial(ours.apply, train=True, method="layers", mutable=["batch_stats"])
    found, updates = jit(apply)(variables, x)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        expected = network.train()(channels_first(x))
    after = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(before)
    for logits, by_torch in zip(found, expected, strict=True):
        assert_close(logits, by_torch, 1e-3)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates["batch_stats"]):
        if path[-1].key == "mean":
            name = ".".join(NAMES.get(key.key, key.key) for key in path)
            np.testing.assert_allclose(leaf, after[name], rtol=1e-3, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(60, 60), (30, 59), (1, 7), (10, 1), (3, 100), (61, 33)])
@pytest.mark.parametrize("before", [(30, 30), (59, 60), (7, 1), (1, 5)])
def test_resizing_equals_pytorchs(before, size, align_corners, torch):
    x = images(2, *before)
    expected = torch.nn.functional.interpolate(
        channels_first(x), size, mode="bilinear", align_corners=align_corners
    )
    found = resize(x, size, align_corners)
    np.testing.assert_allclose(found, channels_last(expected), rtol=0, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("bins", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("size", [(10, 13), (16, 12), (3, 5), (1, 1)])
def test_adaptive_pooling_equals_pytorchs(size, bins, torch):
    x = images(2, *size)
    expected = torch.nn.AdaptiveAvgPool2d(bins)(channels_first(x))
    found = adaptive_avg_pool(jnp.asarray(x), (bins, bins))
    np.testing.assert_allclose(found, channels_last(expected), rtol=0, atol=1e-6)
