"""Tests how torchvision's files of a MobileNetV2 become variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.mobilenet import MobileNetV2
from experiments.weights.files import open_weights
from experiments.weights.loading import WeightsError, arrays_for_file, load
from experiments.weights.mobilenets import load_mobilenet, mobilenet_layout, torchvision
from experiments.weights.public_file import pretrained_mobilenet
from experiments.weights.writing import write_weights
from tests.experiments.weights.torch_states import assert_equal, random_state

NAMES = {
    "stem/conv/kernel": "features.0.0.weight",
    "stem/bn/var": "features.0.1.running_var",
    "block1/depthwise/conv/kernel": "features.1.conv.0.0.weight",
    "block1/depthwise/bn/mean": "features.1.conv.0.1.running_mean",
    "block1/project/conv/kernel": "features.1.conv.1.weight",
    "block1/project/bn/scale": "features.1.conv.2.weight",
    "block2/expand/conv/kernel": "features.2.conv.0.0.weight",
    "block2/expand/bn/bias": "features.2.conv.0.1.bias",
    "block17/depthwise/conv/kernel": "features.17.conv.1.0.weight",
    "block17/depthwise/bn/scale": "features.17.conv.1.1.weight",
    "block17/project/conv/kernel": "features.17.conv.2.weight",
    "block17/project/bn/var": "features.17.conv.3.running_var",
    "head/conv/kernel": "features.18.0.weight",
    "head/bn/bias": "features.18.1.bias",
    "classifier/kernel": "classifier.1.weight",
    "classifier/bias": "classifier.1.bias",
}


@functools.cache
def shapes(method="__call__"):
    init = functools.partial(MobileNetV2().init, method=method)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope="module")
def state():
    with open_weights(pretrained_mobilenet()) as entries:
        return {name: entry.read() for name, entry in entries.items()}


def save(arrays, folder):
    path = folder / "w.safetensors"
    write_weights(path, arrays)
    return path


@pytest.mark.parametrize("path", NAMES)
def test_names(path):
    assert torchvision(path.split("/")).name == NAMES[path]


def test_every_array_is_used_once_except_for_the_counters(state):
    layout = mobilenet_layout({*shapes()["params"]})
    loaded = load(pretrained_mobilenet(), shapes(), layout)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert {*loaded.unused} == counters
    assert len(counters) == 52
    back = arrays_for_file(loaded.variables, layout, loaded.rest)
    assert back.keys() == state.keys()
    assert all(back[name].tobytes() == state[name].tobytes() for name in state)


def test_kernels_are_arranged_as_in_flax(state):
    variables = load_mobilenet(pretrained_mobilenet(), shapes())
    params = variables["params"]
    assert_equal(params["classifier"]["kernel"], state["classifier.1.weight"].T)
    depthwise = state["features.5.conv.1.0.weight"]  # [C, 1, 3, 3]
    kernel = params["block5"]["depthwise"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 1, len(depthwise))
    assert_equal(kernel[0, 2, 0, 7], depthwise[7, 0, 0, 2])
    stem = params["stem"]["conv"]["kernel"]
    assert_equal(stem[2, 1, 0, 9], state["features.0.0.weight"][9, 0, 2, 1])
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes()
    )


def test_a_backbone_does_not_use_the_layers_after_the_features():
    variables = load_mobilenet(pretrained_mobilenet(), shapes("features"))
    whole = load_mobilenet(pretrained_mobilenet(), shapes())
    for name, tree in variables.items():
        assert {*whole[name]} - {*tree} == {"head"} | ({"classifier"} & {*whole[name]})
        assert_equal(tree, {module: whole[name][module] for module in tree})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("features.9.conv.1.1.running_var"),
            r"1 of the arrays.*features\.9\.conv\.1\.1\.running_var: expected \[384\], found noth",
        ),
        (
            lambda state: state.update({"features.19.0.weight": np.ones((4, 4, 1, 1), "f")}),
            r"1 of the arrays.*features\.19\.0\.weight: expected nothing, found \[4, 4, 1, 1\]",
        ),
        (
            lambda state: state.update({"features.0.0.weight": np.ones((32, 1, 3, 3), "f")}),
            r"features\.0\.0\.weight: expected \[32, 3, 3, 3\], found \[32, 1, 3, 3\]",
        ),
        (
            lambda state: state.update({"features.0.1.bias": np.full(32, np.nan, "f")}),
            r"features\.0\.1\.bias: ",
        ),
    ],
    ids=["missing", "surplus", "misshapen", "not finite"],
)
def test_files_that_do_not_match_are_refused(change, message, state, tmp_path):
    changed = dict(state)
    change(changed)
    with pytest.raises(WeightsError, match=rf"w\.safetensors.*{message}"):
        load_mobilenet(save(changed, tmp_path), shapes())


def test_a_backbone_needs_its_features(state, tmp_path):
    classifier = {name: array for name, array in state.items() if "classifier" in name}
    with pytest.raises(WeightsError, match=r"features\.0\.0\.weight: expected .* found nothing"):
        load_mobilenet(save(classifier, tmp_path), shapes("features"))


def test_a_file_of_another_network_says_what_both_are(tmp_path):
    path = save(random_state(), tmp_path)
    model = r"MobileNetV2 of torchvision \(17 blocks; stem of 3 to 32 channels; 1000 classes\)"
    with pytest.raises(WeightsError, match=rf"file is of ResNet-18 .*, and the model is {model}"):
        load_mobilenet(path, shapes())
