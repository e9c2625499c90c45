"""Against PyTorch itself: its networks, and the files that it writes."""

import argparse
import functools
import importlib

import jax
import numpy as np
import pytest

from experiments.models.resnet import ResNet, ResNetConfig
from experiments.models.torch_weights import WeightsError, load_torch_resnet
from tests.experiments.models.torch_states import (
    assert_equal,
    unset,
)


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
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.torch
def test_of_two_state_dicts_none_is_chosen(torch, tmp_path):
    state = torch_model("torchvision", 18).state_dict()
    content = {"state_dict": state, "state_dict_ema": state}
    with pytest.raises(WeightsError, match=r"one state_dict.* 2 .*'state_dict', 'state_dict_ema'"):
        load_torch_resnet(save_torch(content, tmp_path, ".pth"), unset_standard(18))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "legacy"), [("pytorch_model.bin", False), ("model.pth.tar", True), ("w.ckpt", False)]
)
def test_the_suffix_and_what_else_pytorch_writes_are_of_no_account(name, legacy, torch, tmp_path):
    """Parameters, tensors with a gradient and those that share their memory are as any others."""
    state = torch_model("torchvision", 18).state_dict()
    path = save_torch(state, tmp_path, ".safetensors")
    expected = load_torch_resnet(path, unset_standard(18))
    state["fc.bias"] = torch.nn.Parameter(state["fc.bias"])
    state["bn1.bias"] = state["bn1.bias"].clone().requires_grad_()
    flat = state["fc.weight"].flatten()
    state["fc.weight"] = flat.view(1000, 512)
    state["bn1.weight"] = torch.cat([flat[:3], state["bn1.weight"]])[3:]
    torch.save(state, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert_equal(load_torch_resnet(tmp_path / name, unset_standard(18)), expected)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda torch, x: x.to_sparse(), "torch.float32, torch.sparse_coo"),
        (lambda torch, x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "torch.qint8"),
        (lambda torch, x: x.to(torch.float8_e4m3fn), "torch.float8_e4m3fn"),
        (lambda torch, x: x.to(torch.complex64), "torch.complex64"),
        (lambda torch, x: x.to("meta"), "torch.float32 without values"),
        (lambda torch, x: x[:0], r"\[1000\], found \[0\]"),
        (lambda torch, x: x[0], r"\[1000\], found \[\]"),
        (lambda torch, x: x[:1].expand(10**12), r"\[1000\], found \[1000000000000\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(TypedStorage|quantize_per_tensor|quantization)")
def test_other_tensors_are_refused_by_name(make, message, torch, tmp_path):
    state = torch_model("torchvision", 18).state_dict()
    path = save_torch(state | {"fc.bias": make(torch, state["fc.bias"])}, tmp_path, ".pth")
    with pytest.raises(WeightsError, match=rf" 1 of(.|\n)*\n  fc\.bias: .*{message}$"):
        load_torch_resnet(path, unset_standard(18))


@pytest.mark.torch
def test_whole_networks_are_refused_by_their_class(torch, tmp_path):
    path = save_torch({"model": torch_model("torchvision", 18)}, tmp_path, ".pth")
    with pytest.raises(WeightsError, match=r"torchvision\.models\.resnet\.ResNet.*state_dict"):
        load_torch_resnet(path, unset_standard(18))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("timm", "vit_tiny_patch16_224", "no ResNet, but a vision transformer"),
        ("timm", "convnext_atto", "no ResNet, but a ConvNeXt"),
        ("timm", "mobilenetv3_small_100", "no ResNet, but an EfficientNet or a MobileNet"),
        ("timm", "efficientnet_b0", "no ResNet, but an EfficientNet or a MobileNet"),
        ("timm", "resnet50d", "ResNet-50 .*another stem"),
        ("timm", "seresnet50", "ResNet-50 .*squeeze"),
        ("timm", "resnext50_32x4d", "ResNet-50 .*width 128; 32 groups"),
        ("timm", "wide_resnet50_2", "ResNet-50 .*width 128; stem 7x7"),
        ("torchvision", "resnet101", r"ResNet-101 \(bottlenecks 3, 4, 23, 3; .*1000 classes"),
        ("torchvision", "vit_b_16", "no ResNet, but a vision transformer"),
        ("torchvision", "convnext_tiny", "no ResNet, but a ConvNeXt"),
        ("torchvision", "mobilenet_v3_small", "no ResNet, but a MobileNet"),
        ("torchvision", "fcn_resnet50", "a ResNet below backbone. beside .*classifier."),
    ],
)
def test_other_networks_are_named(source, name, message, torch, tmp_path):
    make = "create_model" if source == "timm" else "get_model"
    options = {"weights_backbone": None} if name.startswith("fcn") else {}
    with torch.device("meta"):
        module = importlib.import_module("timm" if source == "timm" else "torchvision.models")
        state = getattr(module, make)(name, **options).state_dict()
    # Of each array the shape counts, and no value.
    state = {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=message) as caught:
        load_torch_resnet(path, unset_standard(18))
    assert len(str(caught.value).splitlines()) == 8


@pytest.mark.torch
def test_pickled_code_is_refused_and_not_run(torch, tmp_path):
    state, traces = torch_model("torchvision", 18).state_dict(), tmp_path / "traces"
    path = save_torch({"state_dict": state, "trap": Trap(traces)}, tmp_path, ".pth")
    with pytest.raises(WeightsError, match=r"weights\.pth.* getattr,.*safe to unpickle"):
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
    with pytest.raises(WeightsError, match=r"none\.pth"):
        load_torch_resnet(tmp_path / "none.pth", unset_standard(18))


@pytest.mark.torch
def test_a_pytorch_that_may_run_pickled_code_is_refused(torch, tmp_path, monkeypatch):
    path = save_torch(torch_model("torchvision", 18).state_dict(), tmp_path, ".pth")
    monkeypatch.setattr(torch, "__version__", type(torch.__version__)("2.5.1+cu124"))
    with pytest.raises(WeightsError, match=r"PyTorch.*2\.5\.1"):
        load_torch_resnet(path, unset_standard(18))
