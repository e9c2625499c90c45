"""What kernels on the tensor cores share: the calls that they serve, and weights as factors.

The tensor cores multiply 16-bit numbers and add in float32. A weight is the sum of one or two
16-bit *parts*: rounded to one part, it would add as much error as the output has.
"""

import jax
import jax.numpy as jnp

from carafe_kernels.mosaic_gpu.problem import Problem

UP = 2
K_STEP = 16  # columns of the left factor of one matrix instruction


def maps_reason(problem: Problem) -> str | None:
    """Why the tensor cores cannot multiply the maps of a problem; ``None`` if they can."""
    geometry = problem.geometry
    if problem.dtype.itemsize != 2:
        return f"tensor cores multiply 16-bit maps, not {problem.dtype}"
    if (geometry.up, geometry.down) != (UP, 1):
        return f"it serves up {UP}, not up {geometry.up} and down {geometry.down}"
    return None


def weights_reason(problem: Problem) -> str | None:
    """Why the weights of a problem cannot be factors; ``None`` if they can."""
    groups = problem.geometry.groups
    if groups & (groups - 1):
        return f"the number of groups must be a power of two, not {groups}"
    if problem.dtype != jnp.float16:
        return None
    if problem.normalizer is None and problem.cells_dtype != problem.dtype:
        return f"float16 cannot hold every weight of {problem.cells_dtype}"
    if problem.normalizer == "sigmoid":  # the weights of a kernel may all be tiny
        return "float16 cannot hold every weight of normalizer 'sigmoid'"
    return None


def parts_of_weights(problem: Problem) -> int:
    """Number of 16-bit numbers whose sum is a weight: one for weights in the dtype of the maps."""
    return 1 if problem.normalizer is None and problem.cells_dtype == problem.dtype else 2


def split_weights(weights: jax.Array, problem: Problem) -> list[jax.Array]:
    """The parts of weights in the dtype of the maps, the larger one first."""
    parts = [weights.astype(problem.dtype)]
    if parts_of_weights(problem) > 1:
        parts.append((weights - parts[0].astype(jnp.float32)).astype(problem.dtype))
    return parts
