"""``vmap`` of opaque calls."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.sharding import MeshAxes, axes_of, with_leading_axes

type _Function = Callable[..., tuple[jax.Array, ...]]


def folded(function: _Function, max_batch: int) -> _Function:
    """Makes ``vmap`` fold the mapped axis into the batch.

    If the folded batch of a device would exceed ``max_batch``, a loop calls the function with
    parts of the mapped axis. Explicit mesh axes may shard the mapped axis, the batch or both; then
    no data moves between devices.

    Args:
        function: function of arrays whose leading axis is the batch; the leading axis of its
            results is the batch too.
        max_batch: largest batch with which a device calls the function.
    """
    call = custom_vmap(function)

    @call.def_vmap
    def fold(axis_size, in_batched, *arrays):
        shards = _shards(axis_size, in_batched, arrays)
        fits = max(1, max_batch // max(1, shards.batch_part))
        if shards.mapped_part > fits:
            out = _loop(call, in_batched, arrays, shards, fits)
        else:
            mapped = (
                array if batched else jnp.broadcast_to(array[None], (axis_size, *array.shape))
                for array, batched in zip(arrays, in_batched, strict=True)
            )
            out = tuple(map(shards.unfold, call(*map(shards.fold, mapped))))
        return out, tuple(True for _ in out)

    return call


@dataclasses.dataclass(frozen=True)
class _Shards:
    """The sharding of a mapped axis ``N`` and of a batch ``B`` over explicit mesh axes.

    Args:
        mesh: mesh of the arrays.
        axes: mesh axes that shard the mapped axis, and mesh axes that shard the batch.
        counts: number of shards of the mapped axis, ``n``, and of the batch, ``b``.
        mapped_part: size of a shard of the mapped axis, ``N / n``.
        batch_part: size of a shard of the batch, ``B / b``.
    """

    mesh: Any
    axes: tuple[MeshAxes, MeshAxes]
    counts: tuple[int, int]
    mapped_part: int
    batch_part: int

    def fold(self, array: jax.Array) -> jax.Array:
        """``[N, B, ...] -> [N * B, ...]``, so that the part of each device is contiguous."""
        n, b = self.counts
        array = self.without_axes_of_one_device(array)
        # [N, B, ...] -> [n, N / n, b, B / b, ...] -> [n, b, N / n, B / b, ...]
        array = split_axis(split_axis(array, 1, b, self.batch_part), 0, n, self.mapped_part)
        return merge_axes(jnp.swapaxes(array, 1, 2), 0, 4)

    def unfold(self, array: jax.Array) -> jax.Array:
        """``[N * B, ...] -> [N, B, ...]``, the inverse of :meth:`fold`."""
        # [N * B, ...] -> [n, b, N / n, B / b, ...] -> [n, N / n, b, B / b, ...]
        array = split_axis(array, 0, *self.counts, self.mapped_part, self.batch_part)
        array = merge_axes(merge_axes(jnp.swapaxes(array, 1, 2), 0), 1)
        return with_leading_axes(array, self.mesh, *self.axes)

    def without_axes_of_one_device(self, array: jax.Array) -> jax.Array:
        """Reshards ``[N, B, ...]`` over the mesh axes of size 2 or more.

        A reshape cannot infer the sharding of its result over mesh axes of size 1.
        """
        sizes = self.mesh.shape
        several = (tuple(axis for axis in axes if sizes[axis] > 1) for axes in self.axes)
        return with_leading_axes(array, self.mesh, *several)


def _shards(axis_size: int, in_batched: Sequence[bool], arrays: Sequence[jax.Array]) -> _Shards:
    shardings = [jax.typeof(array).sharding for array in arrays]
    # vmap requires that all mapped axes are sharded in the same way. Batches may differ; the first
    # sharded batch decides.
    first = in_batched.index(True)
    mesh = shardings[first].mesh
    batches = (s.spec[int(mapped)] for s, mapped in zip(shardings, in_batched, strict=True))
    axes = axes_of(shardings[first].spec[0]), next(filter(None, map(axes_of, batches)), ())
    n, b = (math.prod(mesh.shape[axis] for axis in names) for names in axes)
    return _Shards(mesh, axes, (n, b), axis_size // n, arrays[first].shape[1] // b)


def _loop(call, in_batched, arrays, shards, size):
    """Loops over the mapped axis, with ``size`` elements of each device's shard at a time."""
    one_element_per_shard = jax.vmap(call, [0 if batched else None for batched in in_batched])

    def call_piece(mapped):
        mapped = iter(mapped)
        return one_element_per_shard(
            *(
                next(mapped) if batched else array
                for array, batched in zip(arrays, in_batched, strict=True)
            )
        )

    def shards_last(array):
        # [N, ...] -> [n, N / n, ...] -> [N / n, n, ...]
        array = shards.without_axes_of_one_device(array)
        return jnp.swapaxes(split_axis(array, 0, shards.counts[0], shards.mapped_part), 0, 1)

    mapped = [
        shards_last(array) for array, batched in zip(arrays, in_batched, strict=True) if batched
    ]
    out = jax.lax.map(call_piece, mapped, batch_size=size)
    merged = (merge_axes(jnp.swapaxes(array, 0, 1), 0) for array in out)
    return tuple(with_leading_axes(array, shards.mesh, *shards.axes) for array in merged)
