import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.engine.config import ConfigError
from experiments.pyramid.features_writing import map_shapes
from experiments.pyramid.network import PyramidNetwork
from experiments.pyramid.network_config import PyramidNetworkConfig
from experiments.pyramid.presets import PRESETS
from experiments.resamplers.methods import UPSAMPLERS
from tests.compilation import jit

NEAREST = PyramidNetworkConfig(channels=8, upsampler="nearest")


def random_maps(batch, height, width, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        rng.normal(size=each.shape).astype(each.dtype) for each in map_shapes(batch, height, width)
    )


def parameters(model, *maps):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *maps)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])), {*shapes["params"]}


def test_the_parameters_are_the_documented_ones():
    model = PyramidNetwork(PyramidNetworkConfig(64, "nearest"), 13)
    count, _ = parameters(model, map_shapes(1, 64, 64))
    assert count == 9 * 64**2 + (472 + 10 + 13) * 64 + 13


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_an_upsampler_is_between_each_pair_of_levels(upsampler):
    model = PyramidNetwork(dataclasses.replace(NEAREST, upsampler=upsampler), 13)
    maps = map_shapes(2, 120, 160)
    logits, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), maps)
    assert logits.shape == (2, 30, 40, 13)
    assert logits.dtype == jnp.float32
    upsamplers = {name for name in variables["params"] if name.startswith("upsample_")}
    has_parameters = upsampler not in ("nearest", "bilinear")
    assert upsamplers == ({"upsample_3", "upsample_4", "upsample_5"} if has_parameters else set())


def test_presets_have_all_upsamplers():
    assert {preset.config.model.upsampler for preset in PRESETS} == {*UPSAMPLERS}


def test_the_pathway_is_the_sum_of_upsampled_laterals():
    """With nearest upsampling, one channel and BatchNorm that changes nothing."""
    model = PyramidNetwork(dataclasses.replace(NEAREST, channels=1), 1)
    maps = random_maps(1, 72, 96)
    shapes = jax.eval_shape(model.init, jax.random.key(0), maps)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    params, stats = variables["params"], variables["batch_stats"]
    for level in (2, 3, 4, 5):
        params[f"lateral_{level}_conv"]["kernel"][0, 0, 1, 0] = 10.0**-level
    params["output_conv"]["kernel"][1, 1] = 1
    params["classifier"]["kernel"][:] = 1
    for name in params:
        if name.endswith("_bn"):
            params[name]["scale"][:] = 1
            stats[name]["var"][:] = 1 - 1e-5
    found = jit(model.apply)(variables, maps)[0, ..., 0]
    expected = np.zeros((18, 24))
    for row, column in np.ndindex(18, 24):
        for level, each in zip((2, 3, 4, 5), maps, strict=True):
            scale = 2 ** (level - 2)
            pixel = float(each[0, row // scale, column // scale, 1])
            expected[row, column] += 10.0**-level * pixel
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-6)


def test_maps_of_other_levels_are_refused():
    model = PyramidNetwork(NEAREST, 3)
    maps = map_shapes(1, 64, 64)
    with pytest.raises(ValueError, match="4 maps C2 to C5, got 3"):
        jax.eval_shape(model.init, jax.random.key(0), maps[1:])
    with pytest.raises(ValueError, match=r"size.*\(4, 4\).*"):
        jax.eval_shape(model.init, jax.random.key(0), (maps[0], maps[1], maps[3], maps[2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"channels": 0}, "channels.*1.*0"), ({"upsampler": "cubic"}, "upsampler.*nearest.*'cubic'")],
)
def test_an_impossible_config_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(NEAREST, **changes)
