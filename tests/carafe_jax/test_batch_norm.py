import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import carafe_jax
from tests.carafe_jax.twins import (
    CHANNELS,
    SMALL,
    X,
    assert_trees_close,
    nnx_variables,
    random_map,
    twins,
)

NORMED = {"up": 2, "batch_norm": True, **SMALL}


def train_once(pair):
    """Both layers' outputs in training mode and their new statistics."""
    y, updated = pair.linen.apply(
        pair.variables, X, use_running_average=False, mutable=["batch_stats"]
    )
    pair.nnx.train()
    twin_y = pair.nnx(X)
    return (y, twin_y), (updated["batch_stats"], nnx_variables(pair.nnx)["batch_stats"])


def test_training_moves_the_statistics_towards_those_of_the_batch():
    pair = twins(**NORMED)
    initial = pair.variables["batch_stats"]["kernel_predictor"]["norm"]
    compressor = pair.variables["params"]["kernel_predictor"]["channel_compressor"]
    compressed = X.reshape(-1, CHANNELS) @ compressor["kernel"][0, 0]
    expected = {
        "mean": 0.9 * initial["mean"] + 0.1 * compressed.mean(axis=0),
        "var": 0.9 * initial["var"] + 0.1 * compressed.var(axis=0),
    }
    outputs, statistics = train_once(pair)
    np.testing.assert_allclose(*outputs, rtol=1e-6, atol=1e-6)
    for one in statistics:
        assert_trees_close(one["kernel_predictor"]["norm"], expected)


def test_evaluation_uses_the_statistics_and_keeps_them():
    pair = twins(**NORMED)
    (trained_y, _), (updated, twin_updated) = train_once(pair)
    variables = {"params": pair.variables["params"], "batch_stats": updated}
    y, kept = pair.linen.apply(variables, X, use_running_average=True, mutable=["batch_stats"])
    pair.nnx.eval()
    np.testing.assert_allclose(pair.nnx(X), y, rtol=1e-6, atol=1e-6)
    assert abs(y - trained_y).max() > 1e-3
    assert_trees_close(kept["batch_stats"], updated, rtol=0, atol=0)
    assert_trees_close(nnx_variables(pair.nnx)["batch_stats"], twin_updated, rtol=0, atol=0)


def test_batch_norm_is_followed_by_relu():
    pair = twins(**NORMED, compressor_init=jax.nn.initializers.zeros)
    predictor = pair.variables["params"]["kernel_predictor"]
    predictor["norm"]["bias"] = -jnp.ones(SMALL["compressed_channels"])
    logits = carafe_jax.linen.KernelPredictor(**NORMED).apply(
        {
            "params": predictor,
            "batch_stats": pair.variables["batch_stats"]["kernel_predictor"],
        },
        X,
        use_running_average=True,
    )
    np.testing.assert_array_equal(logits, jnp.zeros_like(logits))


def test_linen_takes_use_running_average_as_a_field():
    pair = twins(**NORMED)
    layer = pair.linen.clone(use_running_average=True)
    np.testing.assert_array_equal(
        layer.apply(pair.variables, X),
        pair.linen.apply(pair.variables, X, use_running_average=True),
    )


def test_linen_needs_use_running_average_with_batch_norm():
    pair = twins(**NORMED)
    with pytest.raises(ValueError, match=r"use_running_average.* must be passed"):
        pair.linen.apply(pair.variables, X)


@pytest.mark.parametrize("method", [None, "reassembly_kernels"])
def test_batch_norm_synchronizes_over_the_mapped_axis(method):
    pair = twins(**NORMED, axis_name="devices")
    x = random_map(8, 3, 4, CHANNELS)
    shards = x.reshape(4, 2, *x.shape[1:])
    alone = pair.linen.clone(axis_name=None)

    def linen_step(layer, variables, x):
        return layer.apply(
            variables, x, use_running_average=False, mutable=["batch_stats"], method=method
        )

    y, updated = linen_step(alone, pair.variables, x)
    mapped_y, mapped_updated = jax.pmap(
        functools.partial(linen_step, pair.linen), axis_name="devices", in_axes=(None, 0)
    )(pair.variables, shards)
    np.testing.assert_allclose(mapped_y.reshape(y.shape), y, rtol=5e-6, atol=5e-6)
    for device in range(4):
        one = jax.tree.map(lambda leaf, device=device: leaf[device], mapped_updated)
        assert_trees_close(one["batch_stats"], updated["batch_stats"], rtol=5e-6)

    graph, state = nnx.split(pair.nnx)

    def nnx_step(state, x):
        layer = nnx.merge(graph, state)
        call = layer if method is None else getattr(layer, method)
        y = call(x, use_running_average=False)
        return y, nnx.state(layer, nnx.BatchStat)

    mapped_y, statistics = jax.pmap(nnx_step, axis_name="devices", in_axes=(None, 0))(state, shards)
    np.testing.assert_allclose(mapped_y.reshape(y.shape), y, rtol=5e-6, atol=5e-6)
    first = jax.tree.map(lambda leaf: leaf[0], nnx.to_pure_dict(statistics))
    assert_trees_close(first, updated["batch_stats"], rtol=5e-6)
