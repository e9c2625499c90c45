"""Calls that JAX cannot look into, made to follow the batch wherever JAX takes it."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

_Function = Callable[..., jax.Array]


def along_the_batch(function: _Function, *, effects: bool = False) -> _Function:
    """Lets a function of arrays, all with a leading batch axis as its result, act on any part.

    ``vmap`` folds its axis into the batch. Under ``jit`` over a sharded batch every device calls
    the function on the part that it has, and nothing is gathered, be the sharding automatic or
    explicit; in ``pmap`` and ``shard_map`` there are only parts anyway.

    Args:
        function: sees the batch size of its part only.
        effects: whether the function has effects, which have no automatic sharding.
    """
    return _folding(_explicitly_sharded(function if effects else _partitioned(function)))


def _folding(function: _Function) -> _Function:
    folded = custom_vmap(function)

    @folded.def_vmap
    def fold(axis_size, in_batched, *arrays):
        merged = [
            array if batched else jnp.broadcast_to(array[None], (axis_size, *array.shape))
            for array, batched in zip(arrays, in_batched, strict=True)
        ]
        merged = [array.reshape(-1, *array.shape[2:]) for array in merged]
        out = folded(*merged)
        return out.reshape(axis_size, out.shape[0] // axis_size, *out.shape[1:]), True

    return folded


def _explicitly_sharded(function: _Function) -> _Function:
    def call(*arrays):
        first = jax.typeof(arrays[0])
        axes = first.sharding.spec[0] if len(first.sharding.spec) else None
        if axes is None:
            return function(*arrays)
        spec = PartitionSpec(axes)
        names = axes if isinstance(axes, tuple) else (axes,)
        mapped = jax.shard_map(
            function,
            mesh=first.sharding.mesh,
            in_specs=spec,
            out_specs=spec,
            axis_names=set(names),
            check_vma=False,
        )
        return mapped(*arrays)

    return call


def _partitioned(function: _Function) -> _Function:
    partitioned = custom_partitioning(function)

    def partition(mesh, arguments, result):
        def over_the_batch(shape):
            return NamedSharding(shape.sharding.mesh, PartitionSpec(*shape.sharding.spec[:1]))

        return mesh, function, over_the_batch(result), tuple(map(over_the_batch, arguments))

    def rule(mesh, operand_types, result_types):
        del mesh
        names = itertools.count()

        def axes(array_type):
            others = (f"axis{next(names)}" for _ in array_type.shape[1:])
            return " ".join(["batch", *others])

        operands, results = (", ".join(map(axes, types)) for types in (operand_types, result_types))
        return f"{operands} -> {results}"

    partitioned.def_partition(partition=partition, sharding_rule=rule)
    return partitioned
