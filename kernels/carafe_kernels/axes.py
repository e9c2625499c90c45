"""Splitting and merging axes one at a time.

Under explicit sharding, one ``reshape`` that splits and merges at once loses the sharding of the
batch. Several reshapes keep it, and compile to the same program.
"""

import jax
from jax import lax


def split_axis(array: jax.Array, axis: int, *sizes: int) -> jax.Array:
    """Splits one axis: ``[..., a * b, ...] -> [..., a, b, ...]``."""
    shape = array.shape
    return array.reshape(*shape[:axis], *sizes, *shape[axis + 1 :])


def merge_axes(array: jax.Array, axis: int, count: int = 2) -> jax.Array:
    """Merges ``count`` axes, starting at ``axis``: ``[..., a, b, ...] -> [..., a * b, ...]``."""
    return lax.collapse(array, axis, axis + count)
