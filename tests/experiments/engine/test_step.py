import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.engine.parallel import data_parallel, split
from experiments.engine.step import (
    LossSums,
    draw_variables,
    first_carry,
    guarded,
    initial_key,
    initial_state,
    supervised_step,
)

RATE = optax.constant_schedule(0.5)
PARAMS = {"w": np.linspace(-1, 1, 3, dtype=np.float32)}


def loss_function(params, model_state, batch, key):
    """Weighted squared error, with weights that differ from device to device."""
    del key
    error = (batch["x"] @ params["w"] - batch["y"]) ** 2
    seen = model_state["seen"] + batch["x"].mean()
    correct = (error < 1).astype(jnp.float32)
    metrics = {"close": (batch["weight"] * correct).sum()}
    return LossSums((batch["weight"] * error).sum(), batch["weight"].sum(), metrics, {"seen": seen})


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(16, 3)).astype(np.float32),
        "y": rng.normal(size=16).astype(np.float32),
        "weight": rng.uniform(size=16).astype(np.float32),
    }


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_loss_and_step_do_not_depend_on_the_division_of_the_batch(batch, accumulation):
    optimizer = optax.sgd(RATE)
    step = data_parallel(guarded(supervised_step(loss_function, optimizer, RATE, accumulation), 0))
    state = initial_state(PARAMS, {"seen": jnp.zeros(())}, optimizer)
    carry, metrics = step(first_carry(state, 0), split(batch))

    x, y, weight, w = (
        np.float64(a) for a in (batch["x"], batch["y"], batch["weight"], PARAMS["w"])
    )
    error = x @ w - y
    loss = (weight * error**2).sum() / weight.sum()
    gradient = 2 * (weight * error) @ x / weight.sum()
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(
        metrics["close"], (weight * (error**2 < 1)).sum() / weight.sum(), rtol=1e-5
    )
    np.testing.assert_allclose(metrics["learning_rate"], 0.5)
    np.testing.assert_allclose(carry.state["params"]["w"], w - 0.5 * gradient, rtol=1e-5)
    # Each device sums over its parts; the state is the mean over devices.
    seen = x.reshape(4, accumulation, -1).mean(-1).sum(1).mean()
    np.testing.assert_allclose(carry.state["model_state"]["seen"], seen, rtol=1e-5, atol=1e-7)


def test_keys_differ_between_the_parts_of_a_batch():
    def draw(params, model_state, batch, key):
        value = jax.random.uniform(key)
        return LossSums(value + 0 * params["w"].sum(), jnp.float32(1), {"square": value**2}, {})

    optimizer = optax.sgd(RATE)
    step = data_parallel(guarded(supervised_step(draw, optimizer, RATE, accumulation=2), 0))
    state = initial_state(PARAMS, {}, optimizer)
    _, metrics = step(first_carry(state, 0), split({"x": np.zeros(8, np.float32)}))
    variance = float(metrics["square"]) - float(metrics["loss"]) ** 2
    assert variance > 1e-3  # of eight draws; 0 if all parts had the same key


def test_bfloat16_models_keep_float32_parameters_and_sums():
    """Four losses of 1 + 2**-8 are summed exactly, which is impossible in bfloat16."""

    def loss_in_bfloat16(params, model_state, batch, key):
        del key, batch
        prediction = params["w"].astype(jnp.bfloat16).sum()
        loss = prediction.astype(jnp.float32) * 0 + 1 + 2.0**-8
        return LossSums(loss, jnp.float32(1), {}, model_state)

    optimizer = optax.sgd(RATE)
    step = functools.partial(supervised_step, loss_in_bfloat16, optimizer, RATE)
    state = initial_state(PARAMS, {}, optimizer)
    carry, metrics = data_parallel(guarded(step(), 0))(
        first_carry(state, 0), split({"x": np.zeros(4, np.float32)})
    )
    assert carry.state["params"]["w"].dtype == jnp.float32
    assert float(metrics["loss"]) == 1 + 2.0**-8


INPUT = jax.ShapeDtypeStruct((1, 3), jnp.float32)


def test_drawn_variables_depend_only_on_the_key():
    kernels = [
        draw_variables(nn.Dense(4), initial_key(seed), INPUT)["params"]["kernel"]
        for seed in (0, 0, 1)
    ]
    assert kernels[0].shape == (3, 4)
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (np.asarray(kernels[0]) != kernels[2]).any()


def test_a_network_is_drawn_through_the_named_method():
    class Network(nn.Module):
        @nn.compact
        def layers(self, x):
            return nn.Dense(2, name="dense")(x)

    variables = draw_variables(Network(), initial_key(0), INPUT, method="layers")
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "dense": {"bias": (2,), "kernel": (3, 2)}
    }


def test_a_batch_without_anything_to_learn_from_has_a_loss_and_a_gradient_of_0(batch):
    optimizer = optax.sgd(RATE)
    step = data_parallel(guarded(supervised_step(loss_function, optimizer, RATE), 0))
    state = initial_state(PARAMS, {"seen": jnp.zeros(())}, optimizer)
    nothing = {**batch, "weight": np.zeros_like(batch["weight"])}
    carry, metrics = step(first_carry(state, 0), split(nothing))
    assert metrics["loss"] == metrics["gradient_norm"] == metrics["close"] == 0
    assert metrics["skipped"] == 0
    np.testing.assert_array_equal(carry.state["params"]["w"], PARAMS["w"])
