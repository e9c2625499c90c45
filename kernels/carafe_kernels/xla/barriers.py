"""Barriers that make XLA compute an array into memory before other operations use it."""

import jax
from jax import lax


def computed_once[Arrays](arrays: Arrays) -> Arrays:
    """Makes a CPU compute arrays into memory before it uses them.

    XLA for CPUs fuses an array into each operation that uses it, so that each of them computes the
    array again. It would compute a padded map once per tap, a whole reassembly again in the
    gradient of the activation that follows, and the gradient of a loss in both contractions that
    read it. XLA for GPUs takes this cost into account, so it stays free to fuse, except where
    :func:`stored_on_gpu` is used.
    """
    return lax.platform_dependent(arrays, cpu=lax.optimization_barrier, default=lambda same: same)


def stored_on_gpu(array: jax.Array) -> jax.Array:
    """Makes a GPU compute an array into memory, rather than inside the kernels that use it."""
    store = lax.optimization_barrier
    return lax.platform_dependent(array, cuda=store, rocm=store, default=lambda same: same)
