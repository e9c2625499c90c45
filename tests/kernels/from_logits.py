"""Calls of `carafe` with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import carafe_jax


def random_map_logits_and_cotangent(case, dtype):
    rng = np.random.default_rng(0)
    shapes = case.x_shape, case.logits_shape, case.y_shape
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def carafe_and_gradients(case, normalizer, implementation):
    """`(x, logits, dy) -> (y, dx, dlogits)`."""
    operator = functools.partial(
        carafe_jax.carafe, normalizer=normalizer, implementation=implementation, **case.options
    )

    def run(x, logits, dy):
        y, vjp = jax.vjp(operator, x, logits)
        return y, *vjp(dy)

    return run
