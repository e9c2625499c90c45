import functools
import importlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.models.resnet import ResNet, ResNetConfig
from experiments.models.torch_weights import WeightsError, load_torch_resnet

WIDTH = 4
CLASSES = 5
NEW_IN_CARAFE = ("pool", "resample", "downsample_resample")
NEW_IN_LIP = (*NEW_IN_CARAFE, "resample_trunk")


def small(num_classes=CLASSES, **config):
    return ResNet(ResNetConfig(**{"depth": 18, "width": WIDTH} | config), num_classes)


@functools.cache
def shapes(model):
    method = "__call__" if model.num_classes else "features"
    init = functools.partial(model.init, method=method)
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def unset(model):
    """Variables of the model, all NaN."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, leaf.dtype), shapes(model))


def random_state(bottlenecks=False, blocks=(2, 2, 2, 2)):
    """A state_dict of random numbers with torchvision's names and shapes, ``WIDTH`` wide."""
    shapes = {"conv1.weight": (WIDTH, 3, 7, 7), "fc.bias": (CLASSES,)}
    norms = {"bn1": WIDTH}
    channels = WIDTH
    for stage, count in enumerate(blocks, start=1):
        features = WIDTH * 2 ** (stage - 1)
        out = 4 * features if bottlenecks else features
        for block in range(count):
            name = f"layer{stage}.{block}"
            if bottlenecks:
                shapes[f"{name}.conv1.weight"] = (features, channels, 1, 1)
                shapes[f"{name}.conv2.weight"] = (features, features, 3, 3)
                shapes[f"{name}.conv3.weight"] = (out, features, 1, 1)
                norms[f"{name}.bn3"] = out
            else:
                shapes[f"{name}.conv1.weight"] = (features, channels, 3, 3)
                shapes[f"{name}.conv2.weight"] = (features, features, 3, 3)
            norms[f"{name}.bn1"] = norms[f"{name}.bn2"] = features
            if block == 0 and channels != out:
                shapes[f"{name}.downsample.0.weight"] = (out, channels, 1, 1)
                norms[f"{name}.downsample.1"] = out
            channels = out
    shapes["fc.weight"] = (CLASSES, channels)
    for name, features in norms.items():
        for entry in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{entry}"] = (features,)
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return state | {f"{name}.num_batches_tracked": np.full((), 7) for name in norms}


@pytest.fixture
def save(tmp_path):
    """Writes a state_dict as safetensors."""

    def write(state):
        path = tmp_path / "weights.safetensors"
        save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, path)
        return path

    return write


def assert_equal(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_entries_go_where_they_belong(save):
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
    ("depth", "layout"), [(18, {}), (50, {"bottlenecks": True, "blocks": (3, 4, 6, 3)})]
)
def test_every_number_of_the_file_is_used_once(depth, layout, save):
    state = random_state(**layout)
    variables = unset(small(depth=depth))
    loaded = load_torch_resnet(save(state), variables)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    jax.tree.map(lambda new, old: np.testing.assert_equal(new.shape, old.shape), loaded, variables)
    numbers = [leaf.ravel() for leaf in jax.tree.leaves(loaded)]
    in_file = [value.ravel() for value in state.values() if value.dtype == np.float32]
    assert_equal(np.sort(np.concatenate(numbers)), np.sort(np.concatenate(in_file)))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "backbone."])
def test_a_prefix_of_all_names_is_taken_off(prefix, save):
    state, variables = random_state(), unset(small())
    expected = load_torch_resnet(save(state), variables)
    prefixed = {prefix + name: value for name, value in state.items()}
    assert_equal(load_torch_resnet(save(prefixed), variables), expected)


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


def test_a_backbone_leaves_the_classifier_out(save):
    path = save(random_state())
    backbone = load_torch_resnet(path, unset(small(num_classes=None)))
    expected = load_torch_resnet(path, unset(small()))
    del expected["params"]["fc"]
    assert_equal(backbone, expected)


def test_all_that_does_not_fit_is_named(save):
    state = random_state()
    del state["layer1.0.conv1.weight"], state["bn1.running_var"]
    state["layer2.0.se.fc1.weight"] = np.ones((2, 8), np.float32)
    state["layer4.1.bn2.bias"] = np.ones(3, np.float32)
    state["layer4.0.downsample.0.weight"] = state["layer4.0.downsample.0.weight"][:, :, 0, 0]
    with pytest.raises(WeightsError, match=r"weights\.safetensors.* 5 ") as e:
        load_torch_resnet(save(state), unset(small()))
    _, *lines = str(e.value).splitlines()
    entries = [re.findall(r"^ *(\S+):|(\[.*?\]|nothing)", line) for line in lines]
    assert [[name or shape for name, shape in entry] for entry in entries] == [
        ["bn1.running_var", "[4]", "nothing"],
        ["layer1.0.conv1.weight", "[4, 4, 3, 3]", "nothing"],
        ["layer2.0.se.fc1.weight", "nothing", "[2, 8]"],
        ["layer4.0.downsample.0.weight", "[32, 16, 1, 1]", "[32, 16]"],
        ["layer4.1.bn2.bias", "[32]", "[3]"],
    ]


def test_a_transposed_classifier_of_equal_size_is_refused(save):
    state = random_state()
    state["fc.weight"] = np.ascontiguousarray(state["fc.weight"].T)
    with pytest.raises(WeightsError, match=r"fc\.weight.*\[5, 32\].*\[32, 5\]"):
        load_torch_resnet(save(state), unset(small()))


def test_another_number_of_classes_is_refused_unless_the_classifier_is_kept(save):
    path, variables = save(random_state()), unset(small(num_classes=9))
    with pytest.raises(WeightsError, match=r" 2 (.|\n)*fc\.bias.*\[9\].*\[5\]"):
        load_torch_resnet(path, variables)
    loaded = load_torch_resnet(path, variables, keep=("fc",))
    assert_equal(loaded["params"].pop("fc"), variables["params"]["fc"])
    assert np.isfinite(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(loaded)])).all()


def test_a_classifier_of_several_layers_is_left_out_with_its_like(save):
    state = random_state()
    state |= {f"fc.1.{entry}": state.pop(f"fc.{entry}") for entry in ("weight", "bias")}
    path, variables = save(state), unset(small())
    with pytest.raises(WeightsError, match=r" 4 (.|\n)*fc\.1\.bias.*\[5\]"):
        load_torch_resnet(path, variables)
    loaded = load_torch_resnet(path, variables, keep=("fc",))
    assert all(is_unset(loaded["params"]["fc"]))


def test_keeping_one_submodule_leaves_the_others_strict(save):
    state = random_state()
    del state["bn1.bias"]
    with pytest.raises(WeightsError, match=r" 1 (.|\n)*bn1\.bias.*\[4\]"):
        load_torch_resnet(save(state), unset(small()), keep=("fc",))


def is_unset(tree):
    return [bool(np.isnan(leaf).all()) for leaf in jax.tree.leaves(tree)]


def test_new_downsamplers_keep_their_values_when_named(save):
    path, variables = save(random_state()), unset(small(downsampler="carafe"))
    with pytest.raises(WeightsError, match=r"pool\.kernel_predictor\.norm\.weight.*\[16\]"):
        load_torch_resnet(path, variables)
    loaded = load_torch_resnet(path, variables, keep=NEW_IN_CARAFE)
    standard = load_torch_resnet(path, unset(small()))
    for collection in ("params", "batch_stats"):
        assert all(is_unset(loaded[collection].pop("pool")))
        for stage in (2, 3, 4):
            block = loaded[collection][f"layer{stage}_0"]
            assert all(is_unset([block.pop("resample"), block.pop("downsample_resample")]))
    assert_equal(loaded, standard)


@pytest.mark.parametrize("method", ["max_pool", "avg_pool"])
def test_downsamplers_without_parameters_take_standard_weights(method, save):
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
    with pytest.raises(ValueError, match=rf"keep.*\['{re.escape(name)}'\]$"):
        load_torch_resnet(save(random_state()), unset(small()), keep=("fc", name))


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_safetensors_that_are_cut_off_are_refused(length, save):
    path = save(random_state())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match=r"weights\.safetensors.*damaged"):
        load_torch_resnet(path, unset(small()))


def test_quantised_weights_are_refused(save):
    state = random_state() | {"fc.weight": np.ones((CLASSES, 8 * WIDTH), np.int8)}
    with pytest.raises(WeightsError, match=r"fc\.weight.*I8"):
        load_torch_resnet(save(state), unset(small()))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        load_torch_resnet(tmp_path / "none.safetensors", unset(small()))


def test_a_file_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match=r"path.*\.safetensors.*weights\.npz"):
        load_torch_resnet(tmp_path / "weights.npz", unset(small()))


def test_without_pytorch_the_error_names_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"PyTorch.*safetensors\.torch\.save"):
        load_torch_resnet(tmp_path / "weights.pth", unset(small()))


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


@pytest.fixture(scope="module", params=["torchvision", "timm"])
def package(request):
    return request.param


@functools.cache
def torch_model(package, depth):
    """A random network in evaluation mode, with norms that change what passes."""
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
def test_logits_are_those_of_pytorch(depth, package, suffix, torch, tmp_path):
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
def test_features_are_those_of_torchvision(depth, torch, tmp_path):
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
def test_training_differs_in_the_running_variance_alone(depth, torch, tmp_path):
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
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_training_checkpoints_are_unpacked(key, torch, tmp_path):
    reference = torch_model("torchvision", 18)
    expected = load_torch_resnet(
        save_torch(reference.state_dict(), tmp_path, ".safetensors"), unset_standard(18)
    )
    content = {
        "epoch": 3,
        key: torch.nn.DataParallel(reference).state_dict(),
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
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.torch
def test_pickled_code_is_refused_and_not_run(torch, tmp_path):
    state, traces = torch_model("torchvision", 18).state_dict(), tmp_path / "traces"
    path = save_torch({"state_dict": state, "trap": Trap(traces)}, tmp_path, ".pth")
    with pytest.raises(WeightsError, match=r"weights\.pth.*unpickle"):
        load_torch_resnet(path, unset_standard(18))
    assert not traces.exists()
    torch.load(path, weights_only=False)
    assert traces.exists()  # the trap was armed


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
def test_a_pickle_that_is_not_there(torch, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        load_torch_resnet(tmp_path / "none.pth", unset_standard(18))


@pytest.mark.torch
def test_a_pytorch_that_may_run_pickled_code_is_refused(torch, tmp_path, monkeypatch):
    path = save_torch(torch_model("torchvision", 18).state_dict(), tmp_path, ".pth")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.5.1+cu124"))
    with pytest.raises(ImportError, match=r"PyTorch.*2\.5\.1"):
        load_torch_resnet(path, unset_standard(18))
