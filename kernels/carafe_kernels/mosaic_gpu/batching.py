"""Calls that JAX cannot look into, made to follow the batch wherever JAX takes it."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding, PartitionSpec, reshard

_Function = Callable[..., jax.Array]


def along_the_batch(function: _Function, *, effects: bool = False) -> _Function:
    """Lets a function of arrays, all with a leading batch axis as its result, act on any part.

    ``vmap`` folds its axis into the batch. Under ``jit`` over a sharded batch every device calls
    the function on the part that it has, and nothing is gathered, be the sharding automatic or
    explicit; in ``pmap`` and ``shard_map`` there are only parts anyway. Operands that lie
    elsewhere than the batch of the first are moved to it, and axes other than the batch gathered.

    Args:
        function: sees the batch size of its part only.
        effects: whether the function has effects, which have no automatic sharding.
    """
    return _folding(_mapped(function, function if effects else _partitioned(function)))


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


def _mapped(function: _Function, partitioned: _Function) -> _Function:
    """Calls ``function`` on parts where JAX knows the mesh, else leaves them to the partitioner."""

    def call(*arrays: jax.Array) -> jax.Array:
        sharding = jax.typeof(arrays[0]).sharding
        kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
        free = {axis for axis, kind in kinds.items() if kind != AxisType.Manual}
        if not free or all(kind == AxisType.Auto for kind in kinds.values()):
            return partitioned(*arrays)
        spec = PartitionSpec(sharding.spec[0])
        arrays = tuple(
            reshard(array, NamedSharding(sharding.mesh, spec))
            if any(kind == AxisType.Explicit for kind in kinds.values())
            else array
            for array in arrays
        )
        return jax.shard_map(
            function,
            mesh=sharding.mesh,
            in_specs=spec,
            out_specs=spec,
            axis_names=free,
            check_vma=False,
        )(*arrays)

    return call


def _partitioned(function: _Function) -> _Function:
    partitioned = custom_partitioning(function)

    def partition(mesh, arguments, result):
        del mesh
        shardings = [shape.sharding for shape in (result, *arguments)]
        batch = next((sharding.spec[:1] for sharding in shardings if any(sharding.spec[:1])), ())
        one = NamedSharding(shardings[0].mesh, PartitionSpec(*batch))
        return one.mesh, function, one, (one,) * len(arguments)

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
