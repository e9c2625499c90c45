import jax
import numpy as np
import pytest

from experiments.models.resnet import BasicBlock, ResNet
from experiments.models.resnet_config import ResNetConfig
from tests.compilation import jit
from tests.experiments.resamplers import loops
from tests.experiments.variables import scaled_variables


@pytest.mark.parametrize(("stem", "channels"), [("deep", (64, 64, 128)), ("v1c", (32, 32, 64))])
def test_deep_stems_have_three_convolutions(stem, channels):
    model = ResNet(ResNetConfig(50, "carafe", stem=stem), None)
    maps, variables = jax.eval_shape(
        lambda key, x: model.init_with_output(key, x, method="features"),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, 75, 91, 3), np.float32),
    )
    params, before = variables["params"], 3
    for index, features in enumerate(channels, 1):
        assert params[f"conv{index}"]["kernel"].shape == (3, 3, before, features)
        assert set(params[f"conv{index}"]) == {"kernel"}
        assert params[f"bn{index}"]["scale"].shape == (features,)
        before = features
    assert params["layer1_0"]["conv1"]["kernel"].shape == (1, 1, channels[-1], 64)
    assert maps[0].shape == (2, 19, 23, 256)


@pytest.mark.parametrize(("stem", "width"), [("deep", 3), ("v1c", 4)])
def test_deep_stems_equal_the_loops(stem, width):
    model = ResNet(ResNetConfig(18, width=width, stem=stem), None)
    x = np.random.default_rng(0).normal(size=(1, 9, 12, 3)).astype(np.float32)
    variables = scaled_variables(model, x, method="features")
    found = jit(
        lambda v, x: model.apply(
            v, x, method="features", capture_intermediates=lambda m, _: m.name == "bn3"
        )
    )(variables, x)[1]["intermediates"]["bn3"]["__call__"][0]
    y = x
    for index, stride in enumerate((2, 1, 1), 1):
        norm, running = variables["params"][f"bn{index}"], variables["batch_stats"][f"bn{index}"]
        y = loops.convolve(
            np.maximum(y, 0) if index > 1 else y, variables["params"][f"conv{index}"]["kernel"]
        )
        y = (y[:, ::stride, ::stride] - running["mean"]) / np.sqrt(running["var"] + 1e-5)
        y = y * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(found, y, atol=1e-5)
    # The first block reads the maximum of the ReLU.
    pooled = loops.pooled(np.maximum(y, 0), 3, 1, lambda pixels, *_: pixels.max(axis=0))
    block = BasicBlock(model.config, width, False, (1, 1), train=False, dtype=None, axis_name=None)
    stage = {name: tree["layer1_0"] for name, tree in variables.items()}
    first = jit(block.apply)(stage, pooled.astype(np.float32))
    second = {name: tree["layer1_1"] for name, tree in variables.items()}
    c2 = jit(lambda v, x: model.apply(v, x, method="features")[0])(variables, x)
    np.testing.assert_allclose(c2, jit(block.apply)(second, first), atol=1e-5)
