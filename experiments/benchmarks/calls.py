"""The operators of a case, as functions of arrays."""

import functools
from collections.abc import Callable

import jax

import carafe_jax
from experiments.benchmarks.cases import Case


def operator(case: Case, implementation: str | None) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The operator as a function of the map and the weights or logits."""
    options = case.options if case.normalizer is None else {
        **case.options, "normalizer": case.normalizer
    }  # fmt: skip
    function = getattr(carafe_jax, case.operator)
    return functools.partial(function, **options, implementation=implementation)


def with_gradients(
    function: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[..., tuple[jax.Array, ...]]:
    """The output and both gradients, as a function of the operands and a cotangent."""

    def run(x: jax.Array, kernels: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        y, pullback = jax.vjp(function, x, kernels)
        return y, *pullback(dy)

    return run
