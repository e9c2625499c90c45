"""The operator of a case as a function of arrays, its gradients, and random operands."""

import functools
from collections.abc import Callable
from typing import Any

import jax

import carafe_jax
from experiments.benchmarks.cases import Case
from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT, Loss, losses

INPUT_GRADIENT, WEIGHT_GRADIENT = "input gradient", "weight gradient"
CONTRACTIONS = FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT

Operator = Callable[[jax.Array, jax.Array], jax.Array]


def operator(case: Case, implementation: str | None) -> Operator:
    """The operator of a case, as a function of the map and the weights or logits."""
    options = case.options if case.normalizer is None else {
        **case.options, "normalizer": case.normalizer
    }  # fmt: skip
    function = getattr(carafe_jax, case.operator)
    return functools.partial(function, **options, implementation=implementation)


def arrays(case: Case) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Random x, weights that sum to 1, and a cotangent, in the dtypes of a case."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], case.x_shape)
    weights = jax.nn.softmax(jax.random.normal(keys[1], case.weights_shape))
    cotangent = jax.random.normal(keys[2], case.y_shape)
    return (
        x.astype(case.dtype),
        weights.astype(case.weights_dtype),
        cotangent.astype(case.dtype),
    )


def with_gradients(function: Callable[[Any, Any], jax.Array]) -> Callable[..., tuple[Any, ...]]:
    """A function of both operands and a cotangent that returns the output and both gradients."""

    def run(x: Any, kernels: Any, dy: jax.Array) -> tuple[Any, ...]:
        y, pullback = jax.vjp(function, x, kernels)
        return y, *pullback(dy)

    return run


def _forward(function: Operator) -> Callable[..., jax.Array]:
    """The output, as a function of both operands and of a third array that is not used."""
    return lambda x, kernels, _: function(x, kernels)


def passes(function: Operator) -> dict[str, Callable[..., Any]]:
    """Every pass by name, as a function of both operands and an array of the output's shape."""

    def gradient_of(loss: Loss) -> Callable[..., Any]:
        def run(x: jax.Array, kernels: jax.Array, other: jax.Array) -> tuple[jax.Array, ...]:
            gradient = jax.grad(lambda *operands: loss(function(*operands), other), (0, 1))
            return gradient(x, kernels)

        return run

    gradients = {name: gradient_of(loss) for name, loss in losses(jax.nn.relu).items()}
    return {FORWARD: _forward(function), WITH_GRADIENT: with_gradients(function), **gradients}


def contractions(function: Operator) -> dict[str, Callable[..., jax.Array]]:
    """The output and each single gradient, as functions of both operands and a cotangent."""

    def input_gradient(x: jax.Array, weights: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: function(x, weights), x)[1](dy)[0]

    def weight_gradient(x: jax.Array, weights: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(lambda weights: function(x, weights), weights)[1](dy)[0]

    return {
        FORWARD: _forward(function),
        INPUT_GRADIENT: input_gradient,
        WEIGHT_GRADIENT: weight_gradient,
    }
