"""Inputs that layers of Flax take in place of a JAX array."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class HasJaxArray:
    """Converts to a JAX array and has no other property of one."""

    def __init__(self, array):
        self._array = jnp.asarray(array)

    def __jax_array__(self) -> jax.Array:
        return self._array


ARRAY_LIKES = {"numpy": np.asarray, "param": nnx.Param, "jax_array": HasJaxArray}
