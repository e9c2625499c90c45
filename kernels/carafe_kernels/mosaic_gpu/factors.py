"""Factors of matrix products on the tensor cores, which multiply 16-bit numbers.

A float32 is the sum of several 16-bit *parts*, each with the leading bits of what the parts before
it leave. A product is the sum of the products of parts, without those that are below the precision
of float32.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.mosaic_gpu.problem import Problem

_PARTS_OF_FLOAT32 = 3  # of 8 bits each


def factor_dtype(problem: Problem) -> np.dtype:
    """The dtype of the factors: that of the maps, or bfloat16 for float32, which has its range."""
    return problem.dtype if problem.dtype.itemsize == 2 else np.dtype(jnp.bfloat16)


def parts_of_maps(problem: Problem) -> int:
    """Number of parts of a value of a map."""
    return 1 if problem.dtype.itemsize == 2 else _PARTS_OF_FLOAT32


def parts_of_weights(problem: Problem) -> int:
    """Number of parts of a weight: two with 16-bit maps, unless weights have their dtype."""
    if problem.dtype.itemsize == 4:
        return _PARTS_OF_FLOAT32
    return 1 if problem.normalizer is None and problem.cells_dtype == problem.dtype else 2


def split(value: jax.Array, dtype: np.dtype, count: int) -> list[jax.Array]:
    """Splits a value into ``count`` parts of ``dtype``, the largest first."""
    parts = [value.astype(dtype)]
    for _ in range(count - 1):
        value = value - parts[-1].astype(jnp.float32)
        parts.append(value.astype(dtype))
    return parts


def add_product(
    total: jax.Array, left: Sequence[jax.Array], right: Sequence[jax.Array]
) -> jax.Array:
    """``total + left @ right`` of factors in parts."""
    for n, left_part in enumerate(left):
        for m, right_part in enumerate(right):
            if n + m < max(len(left), len(right)):
                total = plgpu.mma(total, left_part, right_part)
    return total
