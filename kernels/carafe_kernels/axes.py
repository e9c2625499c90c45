"""Splitting and merging axes one at a time.

A single ``reshape`` that does both at once loses track of a sharded batch axis under explicit
sharding. Step by step it does not, and the compiled program is the same.
"""

import jax
from jax import lax


def split_axis(array: jax.Array, axis: int, *sizes: int) -> jax.Array:
    """Splits one axis: ``[..., a * b, ...] -> [..., a, b, ...]``."""
    shape = array.shape
    return array.reshape(*shape[:axis], *sizes, *shape[axis + 1 :])


def merge_axes(array: jax.Array, axis: int, count: int = 2) -> jax.Array:
    """Merges ``count`` axes from ``axis`` on: ``[..., a, b, ...] -> [..., a * b, ...]``."""
    return lax.collapse(array, axis, axis + count)
