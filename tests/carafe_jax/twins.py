"""Linen and NNX layers with the same parameters."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.slow import slow

CHANNELS = 6
SMALL: dict[str, Any] = {"kernel_size": 3, "compressed_channels": 4}


def random_map(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = random_map(2, 5, 6, CHANNELS)


class Twins(NamedTuple):
    """A Linen layer and its variables, and an NNX layer with the same parameters."""

    linen: nn.Module
    variables: dict
    nnx: nnx.Module


def nnx_variables(layer):
    """Parameters and statistics of an NNX layer, arranged as Linen arranges them."""
    params, batch_stats, _ = nnx.split_state(nnx.state(layer), nnx.Param, nnx.BatchStat, ...)
    collections = {
        "params": nnx.to_pure_dict(params),
        "batch_stats": nnx.to_pure_dict(batch_stats),
    }
    return {name: collection for name, collection in collections.items() if collection}


def abstract_variables(channels, options):
    """Shapes and dtypes of the variables of fresh twins."""
    x = jax.ShapeDtypeStruct((1, 4, 4, channels), jnp.float32)
    linen = carafe_jax.linen.CARAFE(**options, use_running_average=True)
    layer = nnx.eval_shape(lambda: carafe_jax.nnx.CARAFE(channels, **options, rngs=nnx.Rngs(0)))
    return jax.eval_shape(linen.init, jax.random.key(0), x), nnx_variables(layer)


def twins(channels=CHANNELS, encoder_scale=0.3, **options):
    """Twins with random kernels, unless `encoder_scale` is None."""
    if encoder_scale is not None:
        options["encoder_init"] = jax.nn.initializers.normal(encoder_scale)
    layer = carafe_jax.nnx.CARAFE(channels, **options, rngs=nnx.Rngs(0))
    return Twins(carafe_jax.linen.CARAFE(**options), nnx_variables(layer), layer)


def assert_trees_close(actual, desired, rtol=1e-5, atol=1e-6):
    actual, desired = jax.tree.map(np.asarray, (dict(actual), dict(desired)))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, desired
    )


def describe(parameter):
    """A test id; dtypes by their names."""
    if not isinstance(parameter, dict):
        return str(parameter)
    names = {name: getattr(value, "__name__", value) for name, value in parameter.items()}
    return "-".join(f"{name}={value}" for name, value in names.items())


each_scale = pytest.mark.parametrize("scale", [{"up": 2}, slow({"down": 2})], ids=describe)
