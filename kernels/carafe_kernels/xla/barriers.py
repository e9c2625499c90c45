"""What keeps XLA for CPUs from computing the same more than once."""

from jax import lax


def computed_once[Arrays](arrays: Arrays) -> Arrays:
    """Has arrays computed into memory before they are used, on a CPU.

    XLA for CPUs fuses an array into each of its users, which then compute it again: a padded map
    once for each tap, a whole reassembly in the gradient of an activation after it, and the
    gradient of a loss in both contractions that read it. XLA for GPUs weighs what that costs, and
    needs the freedom to fuse.
    """
    return lax.platform_dependent(arrays, cpu=lax.optimization_barrier, default=lambda same: same)
