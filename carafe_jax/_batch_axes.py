"""Functions of ``[B, H, W, N]`` as functions of any number of batch axes."""

from collections.abc import Callable

import jax

# Rows, columns and channels.
_TRAILING = 3


def map_batch_axes(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """Applies a function of arrays ``[B, H, W, N]`` to arrays ``[..., H, W, N]``.

    All batch axes but the last are mapped by :func:`jax.vmap`. A reshape to one batch axis would
    take as long and as much memory, but it would move data between devices if a mesh shards any
    batch axis except the first.

    Args:
        function: function whose arguments and result have one batch axis.
        arrays: arguments, all with the same batch axes.

    Returns:
        The result, with the batch axes of ``arrays``.
    """
    batch_axes = arrays[0].ndim - _TRAILING
    if batch_axes == 0:
        return function(*(array[None] for array in arrays))[0]
    for _ in range(batch_axes - 1):
        function = jax.vmap(function)
    return function(*arrays)
