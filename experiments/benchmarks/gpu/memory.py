"""Fills device memory with a value before a program writes to it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Freed memory is filled with the first value, then with the second. An element of a result in this
# memory that a kernel does not write cannot be right for both values.
PATTERNS = {"NaN": float("nan"), "-1000": -1000.0}
_COPIES = 3


class Range(NamedTuple):
    """A range of device memory."""

    start: int
    nbytes: int

    @classmethod
    def of(cls, array: jax.Array) -> "Range":
        """The memory of an array."""
        return cls(array.unsafe_buffer_pointer(), array.nbytes)

    def lies_in(self, others: Sequence["Range"]) -> bool:
        """Whether other ranges, which may be adjacent, cover this one."""
        end = self.start
        for start, nbytes in sorted(others):
            if start <= end < start + nbytes:
                end = start + nbytes
        return end >= self.start + self.nbytes


def poison(shapes: Sequence[tuple[tuple[int, ...], Any]], value: float) -> list[Range]:
    """Fills device memory with a value and frees it.

    JAX's allocator decides whether the next arrays reuse this memory. Shared memory is not filled.

    Args:
        shapes: shape and dtype of each array to fill.
        value: value of all elements.

    Returns:
        The memory ranges that were filled.
    """
    arrays = [jnp.full(shape, value, dtype) for shape, dtype in shapes for _ in range(_COPIES)]
    jax.block_until_ready(arrays)
    ranges = [Range.of(array) for array in arrays]
    for array in arrays:
        array.delete()
    return ranges
