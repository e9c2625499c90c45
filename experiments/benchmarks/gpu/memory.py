"""Device memory that was full of something else before a program writes to it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Freed memory is full of the first, then of the second: where a result lies in it, an element that
# a kernel does not write cannot be right under both.
PATTERNS = {"NaN": float("nan"), "-1000": -1000.0}
_COPIES = 3


class Range(NamedTuple):
    """Bytes of device memory."""

    start: int
    nbytes: int

    @classmethod
    def of(cls, array: jax.Array) -> "Range":
        """Where the elements of an array are."""
        return cls(array.unsafe_buffer_pointer(), array.nbytes)

    def lies_in(self, others: Sequence["Range"]) -> bool:
        """Whether these bytes are all among those of other ranges, which may touch."""
        end = self.start
        for start, nbytes in sorted(others):
            if start <= end < start + nbytes:
                end = start + nbytes
        return end >= self.start + self.nbytes


def poison(shapes: Sequence[tuple[tuple[int, ...], Any]], value: float) -> list[Range]:
    """Fills memory of these shapes and dtypes with a value, and frees it for what comes next.

    Whether that takes the same memory is up to JAX's allocator; shared memory stays as it is.

    Returns:
        the memory that was filled.
    """
    arrays = [jnp.full(shape, value, dtype) for shape, dtype in shapes for _ in range(_COPIES)]
    jax.block_until_ready(arrays)
    ranges = [Range.of(array) for array in arrays]
    for array in arrays:
        array.delete()
    return ranges
