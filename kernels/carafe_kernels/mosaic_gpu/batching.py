"""Calls that JAX cannot look into, under ``vmap``."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from carafe_kernels.axes import merge_axes, split_axis

type _Function = Callable[..., tuple[jax.Array, ...]]


def folded(function: _Function, max_batch: int) -> _Function:
    """Has ``vmap`` fold its axis into the batch, the leading axis of all arrays and results.

    Where that would exceed ``max_batch``, a loop calls the function with as much of the axis as
    fits.
    """
    call = custom_vmap(function)

    @call.def_vmap
    def fold(axis_size, in_batched, *arrays):
        batch = arrays[0].shape[int(in_batched[0])]
        fits = max(1, max_batch // max(1, batch))
        if axis_size > fits:
            out = _loop(call, in_batched, arrays, fits)
            return out, tuple(True for _ in out)
        merged = [
            array if batched else jnp.broadcast_to(array[None], (axis_size, *array.shape))
            for array, batched in zip(arrays, in_batched, strict=True)
        ]
        out = call(*(merge_axes(array, 0) for array in merged))
        split = tuple(split_axis(array, 0, axis_size, batch) for array in out)
        return split, tuple(True for _ in split)

    return call


def _loop(function, in_batched, arrays, size):
    """Maps over the leading axis of the arrays that have it, in pieces of ``size``."""

    def call(mapped):
        mapped = iter(mapped)
        return function(
            *(
                next(mapped) if batched else array
                for array, batched in zip(arrays, in_batched, strict=True)
            )
        )

    mapped = [array for array, batched in zip(arrays, in_batched, strict=True) if batched]
    return jax.lax.map(call, mapped, batch_size=size)
