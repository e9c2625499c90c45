import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.models.mobilenet import InvertedResidual, MobileNetV2
from experiments.weights.mobilenets import load_mobilenet
from experiments.weights.public_file import pretrained_mobilenet
from tests.compilation import jit
from tests.experiments.models.photographs import central_crops
from tests.experiments.resamplers import loops
from tests.experiments.variables import scaled_variables

# Central crops of photographs, and classes of ImageNet that they show.
CHELSEA = range(281, 286)  # kinds of domestic cats
COFFEE = {504, 967}  # coffee mug, espresso


@functools.cache
def shapes(method, size=(75, 91)):
    """Returns shapes of the result and of the variables, without computing them."""
    return jax.eval_shape(
        lambda key, x: MobileNetV2().init_with_output(key, x, method=method),
        jax.random.key(0),
        jax.ShapeDtypeStruct((2, *size, 3), jnp.float32),
    )


@pytest.mark.parametrize(("method", "expected"), [("__call__", 3_504_872), ("features", 1_811_712)])
def test_parameters(method, expected):
    params = shapes(method)[1]["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_shape_of_the_logits():
    assert shapes("__call__")[0].shape == (2, 1000)


@pytest.mark.parametrize("size", [(75, 91), (1, 2)])
def test_shapes_of_the_maps(size):
    maps, _ = shapes("features", size)
    for features, stride, channels in zip(maps, (4, 8, 16, 32), (24, 32, 96, 320), strict=True):
        assert features.shape == (2, *(-(-n // stride) for n in size), channels)


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 32, 32, 1), (1, 2, 32, 32, 3)])
@pytest.mark.parametrize("method", ["__call__", "features"])
def test_inputs_of_other_shapes_are_refused(shape, method):
    with pytest.raises(ValueError, match=rf"x must be \[B, H, W, 3\], got {re.escape(str(shape))}"):
        jax.eval_shape(
            lambda x: MobileNetV2().init(jax.random.key(0), x, method=method),
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )


def normalized(y, params, stats):
    y = (y - stats["mean"]) / np.sqrt(np.float64(stats["var"]) + 1e-5)
    return y * params["scale"] + params["bias"]


@pytest.mark.parametrize(
    ("expansion", "features", "stride", "size"),
    [
        (1, 4, 1, (6, 7)),
        (6, 4, 1, (5, 8)),
        (6, 3, 1, (6, 7)),
        (6, 4, 2, (5, 8)),
        (2, 5, 2, (6, 7)),
    ],
)
def test_blocks_equal_the_loops(expansion, features, stride, size):
    block = InvertedResidual(expansion, features, stride)
    rng = np.random.default_rng(1)
    x = rng.normal(0, 8, (1, *size, 4)).astype(np.float32)
    variables = scaled_variables(block, x)
    for layer in variables["batch_stats"].values():
        layer["bn"]["var"] *= 0.02  # so that epsilon matters
    params, stats = variables["params"], variables["batch_stats"]
    assert ("expand" in params) == (expansion > 1)

    def layer(y, name):
        return normalized(y, params[name]["bn"], stats[name]["bn"])

    y = np.float64(x)
    if expansion > 1:
        y = layer(loops.convolve(y, params["expand"]["conv"]["kernel"]), "expand")
        assert (y > 6).any()
        y = y.clip(0, 6)
    kernel = params["depthwise"]["conv"]["kernel"]
    channels = [
        loops.convolve(y[..., c : c + 1], kernel[..., c : c + 1]) for c in range(y.shape[-1])
    ]
    y = layer(np.concatenate(channels, -1)[:, ::stride, ::stride], "depthwise")
    assert (y > 6).any()
    y = layer(loops.convolve(y.clip(0, 6), params["project"]["conv"]["kernel"]), "project")
    assert (y < 0).any()
    if stride == 1 and features == 4:
        y += x
    found = jit(block.apply)(variables, x)
    np.testing.assert_allclose(found, y, rtol=0, atol=2e-5 * np.abs(y).max())


@pytest.mark.slow
def test_photographs_are_classified():
    x = central_crops("chelsea", "coffee")
    model = MobileNetV2()
    variables = load_mobilenet(
        pretrained_mobilenet(), jax.eval_shape(model.init, jax.random.key(0), x)
    )
    cat, cup = np.asarray(jit(model.apply)(variables, x)).argmax(-1)
    assert cat in CHELSEA
    assert cup in COFFEE
