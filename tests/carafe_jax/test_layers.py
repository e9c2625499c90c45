import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, traverse_util

import carafe_jax
from tests.carafe_jax.twins import CHANNELS, SMALL, X, abstract_variables, describe, twins
from tests.kernels import oracle
from tests.slow import slow

OPTIONS = [
    {"up": 2},
    {"down": 2},
    {"up": 3, "down": 2, "encoder_size": 1, "groups": 2, "batch_norm": True, **SMALL},
    {"down": 2, "encoder_size": 5, "encoder_dilation": 2, "groups": 3, "normalizer": "sigmoid",
     **SMALL},
    {"up": 2, "dtype": jnp.bfloat16, "normalizer": "sigmoid_normalized", **SMALL},
    {"down": 2, "dtype": jnp.float16, "param_dtype": jnp.float16, "batch_norm": True,
     "kernel_size": 3, "compressed_channels": None},
]  # fmt: skip
# Fewer of them at once.
MORE_OPTIONS = [
    {"up": 3, "down": 2, **SMALL},
    {"down": 2, "encoder_dilation": 2, "normalizer": "sigmoid_normalized", **SMALL},
    {"up": 2, "batch_norm": True, **SMALL},
    {"down": 2, "batch_norm": True, "kernel_size": 3, "compressed_channels": None},
    {"up": 2, "param_dtype": jnp.bfloat16, **SMALL},
]

every_option = pytest.mark.parametrize("options", OPTIONS + MORE_OPTIONS, ids=describe)


class OptionTwins(NamedTuple):
    """What both layers make of X with some options: outputs, kernels and logits."""

    options: dict
    x: jax.Array
    linen: dict
    nnx: dict

    @property
    def geometry(self):
        names = ("kernel_size", "up", "down", "groups")
        given = {name: self.options[name] for name in names if name in self.options}
        return {"kernel_size": 5, **given}

    @property
    def normalizer(self):
        return self.options.get("normalizer", "softmax")


@pytest.fixture(scope="module", params=[*OPTIONS, *map(slow, MORE_OPTIONS)], ids=describe)
def option_twins(request):
    options = request.param
    linen, variables, layer = twins(**options)
    layer.eval()
    if options.get("batch_norm"):
        linen = linen.clone(use_running_average=True)
    x = jnp.asarray(X, options.get("dtype", X.dtype))

    def run(call, kernels, logits):
        return {"y": call(X), "kernels": kernels(X), "logits": logits(x)}

    def bound(method):
        return functools.partial(linen.apply, variables, method=method)

    return OptionTwins(
        options,
        x,
        jax.jit(run, static_argnums=(0, 1, 2))(
            bound(None),
            bound("reassembly_kernels"),
            bound(lambda layer, x: layer.kernel_predictor(x)),
        ),
        jax.jit(run, static_argnums=(0, 1, 2))(
            layer, layer.reassembly_kernels, layer.kernel_predictor
        ),
    )


def shapes_and_dtypes(variables):
    return {
        path: (leaf.shape, leaf.dtype)
        for path, leaf in traverse_util.flatten_dict(dict(variables)).items()
    }


def count(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@every_option
def test_twins_have_the_same_variables(options):
    linen_variables, variables = abstract_variables(CHANNELS, options)
    assert shapes_and_dtypes(linen_variables) == shapes_and_dtypes(variables)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables["params"])}
    assert dtypes == {jnp.dtype(options.get("param_dtype", jnp.float32))}


def test_twins_compute_the_same_from_the_same_parameters(option_twins):
    assert option_twins.linen["y"].dtype == option_twins.x.dtype
    for name, value in option_twins.linen.items():
        twin_value = option_twins.nnx[name]
        assert twin_value.dtype == value.dtype
        np.testing.assert_allclose(np.float32(twin_value), np.float32(value), rtol=1e-6, atol=1e-6)


def test_layers_reassemble_with_the_kernels_they_show(option_twins):
    y, kernels = option_twins.linen["y"], option_twins.linen["kernels"]
    expected = oracle.reassemble(option_twins.x, kernels, **option_twins.geometry)
    tolerance = 2 * float(jnp.finfo(y.dtype).eps)
    np.testing.assert_allclose(np.float64(y), expected, rtol=tolerance, atol=1e-5)


def test_layers_show_the_normalized_logits_of_their_predictor(option_twins):
    kernels = np.asarray(option_twins.linen["kernels"])
    expected = oracle.kernels(
        option_twins.linen["logits"], X.shape[1:3], option_twins.normalizer, **option_twins.geometry
    )
    eps = float(jnp.finfo(option_twins.x.dtype).eps)  # XLA can round fused logits less often
    np.testing.assert_allclose(kernels, expected, rtol=32 * eps)
    if option_twins.normalizer != "sigmoid":
        groups = option_twins.options.get("groups", 1)
        sums = kernels.reshape(*kernels.shape[:-1], groups, -1).sum(axis=-1)
        np.testing.assert_allclose(sums, np.ones_like(sums), rtol=1e-5)


def test_variables_have_the_names_of_the_paper():
    variables, _ = abstract_variables(CHANNELS, {"up": 2, "batch_norm": True, **SMALL})
    paths = {"/".join(path) for path in traverse_util.flatten_dict(variables)}
    assert paths == {
        "params/kernel_predictor/channel_compressor/kernel",
        "params/kernel_predictor/channel_compressor/bias",
        "params/kernel_predictor/norm/scale",
        "params/kernel_predictor/norm/bias",
        "params/kernel_predictor/content_encoder/kernel",
        "params/kernel_predictor/content_encoder/bias",
        "batch_stats/kernel_predictor/norm/mean",
        "batch_stats/kernel_predictor/norm/var",
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"up": 2}, (256 * 64 + 64) + (3 * 3 * 64 * 100 + 100)),
        ({"down": 2}, (256 * 16 + 16) + (3 * 3 * 16 * 25 + 25)),
        ({"up": 2, "compressed_channels": None}, 3 * 3 * 256 * 100 + 100),
        ({"down": 2, "groups": 4, "encoder_size": 5}, (256 * 16 + 16) + (5 * 5 * 16 * 100 + 100)),
        ({"down": 2, "batch_norm": True}, (256 * 16 + 16) + 2 * 16 + (3 * 3 * 16 * 25 + 25)),
    ],
    ids=describe,
)
def test_parameters_are_as_many_as_counted_by_hand(options, expected):
    for variables in abstract_variables(256, options):
        assert count(variables["params"]) == expected


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (6, 4)])
@pytest.mark.parametrize(
    "scale", [{"up": 2}, {"down": 2}, {"up": 3, "down": 2}, {"down": 3}], ids=describe
)
def test_output_sizes_round_up(scale, size):
    x = jax.ShapeDtypeStruct((2, *size, CHANNELS), jnp.float32)
    layer = carafe_jax.linen.CARAFE(**scale, **SMALL)
    y, _ = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    rows, columns = (oracle.output_size(n, scale.get("up", 1), scale.get("down", 1)) for n in size)
    assert y.shape == (2, rows, columns, CHANNELS)
    twin = carafe_jax.nnx.CARAFE(CHANNELS, **scale, **SMALL, rngs=nnx.Rngs(0))
    assert jax.eval_shape(twin, x).shape == y.shape
