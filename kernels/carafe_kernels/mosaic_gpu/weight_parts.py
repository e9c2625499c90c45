"""Weights as factors of the tensor cores, which multiply 16-bit numbers.

A weight is the sum of one or two 16-bit *parts*: rounded to one part, it would add as much error as
the output has.
"""

import jax
import jax.numpy as jnp

from carafe_kernels.mosaic_gpu.problem import Problem


def parts_of_weights(problem: Problem) -> int:
    """Number of 16-bit numbers whose sum is a weight: one for weights in the dtype of the maps."""
    return 1 if problem.normalizer is None and problem.cells_dtype == problem.dtype else 2


def split_weights(weights: jax.Array, problem: Problem) -> list[jax.Array]:
    """The parts of weights in the dtype of the maps, the larger one first."""
    parts = [weights.astype(problem.dtype)]
    if parts_of_weights(problem) > 1:
        parts.append((weights - parts[0].astype(jnp.float32)).astype(problem.dtype))
    return parts
