"""Barriers that keep XLA from computing an array more than once."""

import jax
from jax import lax


def computed_once[Arrays](arrays: Arrays) -> Arrays:
    """Makes a CPU compute arrays into memory before it uses them.

    XLA for CPUs fuses an array into each operation that uses it, so that each of them computes the
    array again. It would compute a padded map once per tap, a whole reassembly again in the
    gradient of the activation that follows, and the gradient of a loss in both contractions that
    read it. XLA for GPUs takes this cost into account, so it stays free to fuse.
    """
    return lax.platform_dependent(arrays, cpu=lax.optimization_barrier, default=lambda same: same)


def in_one_array(weights: jax.Array) -> jax.Array:
    """Makes a GPU compute weights, or their gradient, into memory as one array.

    The contractions read and compute the weights of one tap at a time. XLA for GPUs would make one
    array for each tap. It would divide by the sum of a softmax in as many kernels as there are
    taps, and each of these kernels would read the exponentials of all taps. XLA for CPUs computes
    the weights once; there, the barrier would make downsampling slower.
    """
    return lax.platform_dependent(weights, cpu=lambda same: same, default=lax.optimization_barrier)
