import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.classification import torch_weights
from experiments.weights.loading import WeightsError
from tests.experiments.weights.torch_states import (
    CLASSES,
    DEEP,
    WIDTH,
    assert_equal,
    random_state,
    small,
    unset,
)

NEW_IN_CARAFE = ("pool", "resample", "downsample_resample")
NEW_IN_LIP = (*NEW_IN_CARAFE, "resample_trunk")


def load_torch_resnet(*arguments, **options):
    return torch_weights.load_torch_resnet(*arguments, **options).variables


@pytest.fixture
def save(tmp_path):
    """Writes a state_dict as safetensors."""

    def write(state):
        path = tmp_path / "weights.safetensors"
        save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
        return path

    return write


def test_entries_have_their_flax_names_and_axes(save):
    state = random_state()
    loaded = load_torch_resnet(save(state), unset(small()))
    params, statistics = loaded["params"], loaded["batch_stats"]
    for ours, torch_name in (
        (params["conv1"], "conv1"),
        (params["layer1_1"]["conv2"], "layer1.1.conv2"),
        (params["layer3_0"]["downsample_conv"], "layer3.0.downsample.0"),
    ):
        kernel, weight = np.asarray(ours["kernel"]), state[f"{torch_name}.weight"]
        for out, in_, row, column in np.ndindex(weight.shape):
            assert kernel[row, column, in_, out] == weight[out, in_, row, column]
    for ours, running, torch_name in (
        (params["bn1"], statistics["bn1"], "bn1"),
        (params["layer2_0"]["bn2"], statistics["layer2_0"]["bn2"], "layer2.0.bn2"),
        (
            params["layer4_0"]["downsample_bn"],
            statistics["layer4_0"]["downsample_bn"],
            "layer4.0.downsample.1",
        ),
    ):
        assert_equal(ours["scale"], state[f"{torch_name}.weight"])
        assert_equal(ours["bias"], state[f"{torch_name}.bias"])
        assert_equal(running["mean"], state[f"{torch_name}.running_mean"])
        assert_equal(running["var"], state[f"{torch_name}.running_var"])
    assert_equal(params["fc"]["kernel"], state["fc.weight"].T)
    assert_equal(params["fc"]["bias"], state["fc.bias"])


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        ({}, {}),
        ({"depth": 50}, {"bottlenecks": True, "blocks": (3, 4, 6, 3)}),
        ({"stem": "deep"}, {"stem": DEEP}),
    ],
)
def test_every_number_of_the_file_is_used_once(config, layout, save):
    state = random_state(**layout)
    variables = unset(small(**config))
    loaded = load_torch_resnet(save(state), variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    jax.tree.map(lambda new, old: np.testing.assert_equal(new.shape, old.shape), loaded, variables)
    numbers = [leaf.ravel() for leaf in jax.tree.leaves(loaded)]
    in_file = [value.ravel() for value in state.values() if value.dtype == np.float32]
    assert_equal(np.sort(np.concatenate(numbers)), np.sort(np.concatenate(in_file)))


def test_a_deep_stem_has_the_names_of_the_official_upernet(save):
    state = random_state(stem=DEEP)
    loaded = load_torch_resnet(save(state), unset(small(stem="deep")))
    for index in (1, 2, 3):
        kernel = loaded["params"][f"conv{index}"]["kernel"]
        assert_equal(kernel.transpose(3, 2, 0, 1), state[f"conv{index}.weight"])
        mean = loaded["batch_stats"][f"bn{index}"]["mean"]
        assert_equal(mean, state[f"bn{index}.running_mean"])


@pytest.mark.parametrize(
    ("stem", "config", "message"),
    [
        (
            DEEP,
            {},
            r"file is of ResNet-18 .*stem 3x3, 3x3, 3x3 of 3, 4, 4 channels.*"
            r"model is ResNet-18 .*stem 7x7 of 3 channels.*"
            r"bn2\.bias: expected nothing, found \[4\]",
        ),
        (
            DEEP,
            {"stem": "v1c"},
            r"stem 3x3, 3x3, 3x3 of 3, 4, 4 channels.*stem 3x3, 3x3, 3x3 of 3, 2, 2 channels.*"
            r"bn1\.bias: expected \[2\], found \[4\]",
        ),
        (
            ((WIDTH, 7),),
            {"stem": "deep"},
            r"stem 7x7 of 3 channels.*stem 3x3, 3x3, 3x3 of 3, 4, 4 channels.*"
            r"bn2\.bias: expected \[4\], found nothing",
        ),
    ],
)
def test_weights_with_another_stem_are_refused(stem, config, message, save):
    with pytest.raises(WeightsError, match=message):
        load_torch_resnet(save(random_state(stem=stem)), unset(small(**config)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "backbone."])
def test_a_prefix_of_all_names_is_removed(prefix, save):
    state, variables = random_state(), unset(small())
    expected = load_torch_resnet(save(state), variables)
    prefixed = {prefix + name: value for name, value in state.items()}
    assert_equal(load_torch_resnet(save(prefixed), variables), expected)


def test_a_counter_beside_a_wrapped_network_has_no_prefix(save):
    state, variables = random_state(), unset(small())
    expected = load_torch_resnet(save(state), variables)
    wrapped = {f"module.{name}": value for name, value in state.items()}
    wrapped["n_averaged"] = np.array(3)
    assert_equal(load_torch_resnet(save(wrapped), variables), expected)


def test_the_command_that_loads_a_detector_is_named(save):
    state = {f"backbone.{name}": value for name, value in random_state().items()}
    state["roi_head.bbox_head.fc_cls.weight"] = np.ones((81, 4), np.float32)
    with pytest.raises(
        WeightsError, match=r"file is of mmdet's .*ResNet-18.*80 classes.*--from mmdet.*detection"
    ):
        load_torch_resnet(save(state), unset(small()))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_precisions_become_float32(dtype, save):
    state = {
        name: value.astype(dtype) if value.dtype == np.float32 else value
        for name, value in random_state().items()
    }
    loaded = load_torch_resnet(save(state), unset(small()))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    assert_equal(loaded["params"]["fc"]["bias"], state["fc.bias"].astype(np.float32))


def test_the_model_chooses_its_dtypes(save):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), unset(small()))
    state = random_state()
    loaded = load_torch_resnet(save(state), half)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(jnp.bfloat16)}
    assert_equal(loaded["params"]["fc"]["bias"], state["fc.bias"].astype(jnp.bfloat16))


def test_a_backbone_ignores_the_classifier(save):
    path = save(random_state())
    backbone = load_torch_resnet(path, unset(small(num_classes=None)))
    expected = load_torch_resnet(path, unset(small()))
    del expected["params"]["fc"]
    assert_equal(backbone, expected)


def test_all_differences_are_named(save):
    state = random_state()
    del state["layer1.0.conv1.weight"], state["bn1.running_var"]
    state["layer2.0.se.fc1.weight"] = np.ones((2, 8), np.float32)
    state["layer4.1.bn2.bias"] = np.ones(3, np.float32)
    state["layer4.0.downsample.0.weight"] = state["layer4.0.downsample.0.weight"][:, :, 0, 0]
    with pytest.raises(WeightsError, match=r"weights\.safetensors.* 5 ") as e:
        load_torch_resnet(save(state), unset(small()))
    shape = r"(\[.*?\]|nothing)"
    assert re.findall(rf"(\S+): expected {shape}, found {shape}", str(e.value)) == [
        ("bn1.running_var", "[4]", "nothing"),
        ("layer1.0.conv1.weight", "[4, 4, 3, 3]", "nothing"),
        ("layer2.0.se.fc1.weight", "nothing", "[2, 8]"),
        ("layer4.0.downsample.0.weight", "[32, 16, 1, 1]", "[32, 16]"),
        ("layer4.1.bn2.bias", "[32]", "[3]"),
    ]


def test_a_transposed_classifier_of_equal_size_is_refused(save):
    state = random_state()
    state["fc.weight"] = np.ascontiguousarray(state["fc.weight"].T)
    with pytest.raises(WeightsError, match=r"fc\.weight.*\[5, 32\].*\[32, 5\]"):
        load_torch_resnet(save(state), unset(small()))


def test_another_number_of_classes_is_refused_unless_the_classifier_is_kept(save):
    path, variables = save(random_state()), unset(small(num_classes=9))
    with pytest.raises(WeightsError, match=r" 2 .*fc\.bias.*\[9\].*\[5\]"):
        load_torch_resnet(path, variables)
    loaded = load_torch_resnet(path, variables, keep=("fc",))
    assert_equal(loaded["params"].pop("fc"), variables["params"]["fc"])
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(loaded)])).all()


def test_a_classifier_of_several_layers_is_ignored(save):
    state = random_state()
    state |= {f"fc.1.{entry}": state.pop(f"fc.{entry}") for entry in ("weight", "bias")}
    path, variables = save(state), unset(small())
    with pytest.raises(WeightsError, match=r" 4 .*fc\.1\.bias.*\[5\]"):
        load_torch_resnet(path, variables)
    loaded = load_torch_resnet(path, variables, keep=("fc",))
    assert all(is_unset(loaded["params"]["fc"]))


def test_keeping_one_submodule_leaves_the_others_strict(save):
    state = random_state()
    del state["bn1.bias"]
    with pytest.raises(WeightsError, match=r" 1 .*bn1\.bias.*\[4\]"):
        load_torch_resnet(save(state), unset(small()), keep=("fc",))


def is_unset(tree):
    return [bool(np.isnan(leaf).all()) for leaf in jax.tree.leaves(tree)]


def test_new_downsamplers_keep_their_values_when_named(save):
    path, variables = save(random_state()), unset(small(downsampler="carafe"))
    with pytest.raises(WeightsError, match=r"keep.*\['kernel_predictor'\]"):
        load_torch_resnet(path, variables)
    assert_equal(
        load_torch_resnet(path, variables, keep=["kernel_predictor"]),
        load_torch_resnet(path, variables, keep=NEW_IN_CARAFE),
    )
    loaded = load_torch_resnet(path, variables, keep=NEW_IN_CARAFE)
    standard = load_torch_resnet(path, unset(small()))
    for collection in ("params", "batch_stats"):
        assert all(is_unset(loaded[collection].pop("pool")))
        for stage in (2, 3, 4):
            block = loaded[collection][f"layer{stage}_0"]
            assert all(is_unset([block.pop("resample"), block.pop("downsample_resample")]))
    assert_equal(loaded, standard)


@pytest.mark.parametrize(
    ("missing", "advice"),
    [
        ("layer4.", r"keep.*\['layer4'\]"),
        ("layer4.0.conv1.", r"keep.*\['layer4\.0\.conv1'\]"),
        ("fc.", r"keep.*\['fc'\]"),
        ("", r"^((?!`keep`).)*$"),
    ],
)
def test_the_advice_names_only_parts_that_differ(missing, advice, save):
    state = random_state()
    path = save({n: value for n, value in state.items() if not n.startswith(missing)})
    with pytest.raises(WeightsError, match=advice):
        load_torch_resnet(path, unset(small()))


def test_unexpected_entries_of_a_file_cannot_be_kept(save):
    path = save({**random_state(), "layer4.2.conv1.weight": np.ones((4, 4, 3, 3), np.float32)})
    with pytest.raises(WeightsError, match=r"^((?!`keep`).)*layer4\.2\.conv1\.weight"):
        load_torch_resnet(path, unset(small()))


@pytest.mark.parametrize("method", ["max_pool", "avg_pool"])
def test_downsamplers_without_parameters_accept_standard_weights(method, save):
    path = save(random_state())
    assert_equal(
        load_torch_resnet(path, unset(small(downsampler=method))),
        load_torch_resnet(path, unset(small())),
    )


def test_a_whole_name_keeps_one_submodule(save):
    path = save(random_state(bottlenecks=True, blocks=(3, 4, 6, 3)))
    variables = unset(small(depth=50, downsampler="lip"))
    changed = tuple(f"layer{stage}.0.conv2" for stage in (2, 3, 4))
    loaded = load_torch_resnet(path, variables, keep=(*NEW_IN_LIP, *changed))["params"]
    assert all(is_unset([loaded["layer2_0"]["conv2"], loaded["layer4_0"]["resample_trunk"]]))
    assert not any(is_unset([loaded["layer1_0"], loaded["layer2_0"]["bn2"], loaded["layer2_1"]]))


@pytest.mark.parametrize("name", ["resample", "fc.weight", "layer5", "layer1_0", ""])
def test_kept_names_must_occur(name, save):
    with pytest.raises(WeightsError, match=rf"keep.*\['{re.escape(name)}'\]$"):
        load_torch_resnet(save(random_state()), unset(small()), keep=("fc", name))


def test_quantised_weights_are_refused(save):
    state = random_state() | {"fc.weight": np.ones((CLASSES, 8 * WIDTH), np.int8)}
    with pytest.raises(WeightsError, match=r"fc\.weight.*I8"):
        load_torch_resnet(save(state), unset(small()))


@pytest.mark.parametrize(
    ("name", "value", "dtype", "message"),
    [
        ("layer1.0.conv1.weight", np.nan, np.float32, "2 of 144 values NaN"),
        ("fc.bias", -np.inf, np.float16, "2 of 5 values infinite"),
        ("fc.bias", 1e300, np.float64, "2 of 5 values beyond 1e+19"),
        ("fc.bias", -1e30, np.float32, "2 of 5 values beyond 1e+19"),
        ("bn1.running_var", -0.5, np.float32, "2 of 4 values negative"),
    ],
)
def test_unusable_values_are_named(name, value, dtype, message, save):
    state = random_state()
    state[name] = state[name].astype(dtype)
    state[name].flat[1:3] = value
    with pytest.raises(
        WeightsError, match=rf"in 1 of the arrays: {re.escape(f'{name}: {message}')}$"
    ):
        load_torch_resnet(save(state), unset(small()))
    kept = load_torch_resnet(save(state), unset(small()), keep=(name.rpartition(".")[0],))
    assert jax.tree.structure(kept) == jax.tree.structure(unset(small()))


def test_shapes_suffice_and_are_returned_for_kept_parts(save):
    path, model = save(random_state()), small(num_classes=9)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), unset(model))
    loaded = load_torch_resnet(path, shapes, keep=("fc",))
    assert loaded["params"].pop("fc") == shapes["params"].pop("fc")
    del shapes
    assert_equal(loaded, load_torch_resnet(path, unset(small(num_classes=None))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: random_state(True, (3, 4, 23, 3)),
            "file is of ResNet-101 .*width 4.*stem 7x7",
        ),
        (
            lambda state: random_state(True, (2, 2, 2, 2)),
            "file is of a ResNet .bottlenecks 2, 2, 2, 2",
        ),
        (
            lambda state: {f"backbone.{n}": v for n, v in state.items()} | {"neck.x": np.ones(1)},
            "ResNet below backbone. beside neck.",
        ),
        (
            lambda state: {n if n == "fc.bias" else f"module.{n}": v for n, v in state.items()},
            "ResNet below module. beside fc.",
        ),
        (
            lambda state: {n.replace("layer", "stage"): v for n, v in state.items()},
            "no ResNet, by its names .*'bn1.bias'",
        ),
        (
            lambda state: {f"blocks.{n}.attn.qkv.weight": np.ones(1) for n in range(30)},
            "no ResNet, but a vision transformer",
        ),
        (
            lambda state: {name: np.ones(3, np.float32) for name in state},
            r"file is of ResNet-18 \(basic blocks 2, 2, 2, 2; another stem; 3 classes\)",
        ),
        (lambda state: {}, "empty"),
    ],
)
def test_the_network_of_a_file_is_named_with_the_first_differences(change, message, save):
    with pytest.raises(WeightsError, match=message) as caught:
        load_torch_resnet(save(change(random_state())), unset(small()))
    text = str(caught.value)
    assert re.search(r"model is ResNet-18 \(basic blocks 2, 2, 2, 2; width 4; .*5 classes\)", text)
    assert int(re.search(r", (\d+) of the arrays", text)[1]) > 20
    assert len(re.findall(": expected .*?, found ", text)) == 6
    assert text.endswith("; ...")
