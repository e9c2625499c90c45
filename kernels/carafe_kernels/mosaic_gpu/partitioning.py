"""Lets every device call an opaque function on its own shards of the arrays."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding

from carafe_kernels.sharding import (
    CommonSharding,
    Role,
    common_explicit_sharding,
    common_sharding,
    resharded,
    varying_axes,
    varying_over,
)

type Function = Callable[..., tuple[jax.Array, ...]]


def on_shards(
    function: Function,
    operands: tuple[Role, ...],
    results: tuple[Role, ...],
    groups: int,
    *,
    effects: bool = False,
) -> Function:
    """Lets every device call a function on its shards of the batch and of the channels.

    Under ``jit`` it works for automatic and for explicit mesh axes. Arrays that have their
    :class:`CommonSharding` are not gathered; other arrays are resharded to it. Weight gradients
    over a shard of the channels are summed over the devices. In ``pmap`` and ``shard_map`` the
    arrays are shards already. An explicit axis that a ``vmap`` maps over is left to the ``vmap``.

    Args:
        function: function from arrays of rank 4 to a tuple of arrays of rank 4; it sees the shapes
            of the shards only.
        operands: roles of the arguments of the function, at least one of them a map.
        results: roles of the results of the function.
        groups: number of channel groups of the whole arrays.
        effects: whether the function has effects; functions with effects cannot be partitioned
            automatically.
    """
    roles = operands, results, groups
    partitioned = function if effects else _partitioned(function, *roles)

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        mesh, common = common_explicit_sharding(
            operands, arrays, arrays[operands.index("map")].shape[3], groups
        )
        free = set(mesh.axis_types) - {AxisType.Manual}
        if not free or set(mesh.axis_types) == {AxisType.Auto}:
            out = partitioned(*arrays)
        else:
            specs = tuple(map(common.spec, operands))
            if AxisType.Explicit in free:
                arrays = tuple(
                    resharded(array, mesh, spec) for array, spec in zip(arrays, specs, strict=True)
                )
            # Without axis_names, it is manual over all axes that no enclosing shard_map or explicit
            # vmap maps.
            out = jax.shard_map(
                _summed(function, common, results),
                mesh=mesh,
                in_specs=specs,
                out_specs=tuple(map(common.spec, results)),
                check_vma=False,
            )(*arrays)
        # Neither call records over which axes of an enclosing shard_map its results vary.
        varying = varying_axes(*arrays)
        return tuple(varying_over(array, varying) for array in out)

    return call


def _summed(function: Function, common: CommonSharding, results: tuple[Role, ...]) -> Function:
    def total(part: jax.Array, role: Role) -> jax.Array:
        axes = common.partial_sum_axes(role)
        if not axes:
            return part
        return jax.lax.psum(part.astype(jnp.float32), axes).astype(part.dtype)

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(map(total, function(*arrays), results))

    return call


def _partitioned(
    function: Function, operands: tuple[Role, ...], results: tuple[Role, ...], groups: int
) -> Function:
    partitioned = custom_partitioning(function)
    roles = *results, *operands

    def partition(mesh, arguments, out):
        shapes = *out, *arguments
        specs = [shape.sharding.spec for shape in shapes]
        channels = shapes[roles.index("map")].shape[3]
        mesh = shapes[0].sharding.mesh
        common = common_sharding(roles, specs, mesh.shape, channels, groups)
        shardings = [NamedSharding(mesh, common.spec(role)) for role in roles]
        count = len(results)
        return (
            mesh,
            _summed(function, common, results),
            tuple(shardings[:count]),
            tuple(shardings[count:]),
        )

    def rule(mesh, operand_types, result_types):
        del mesh, operand_types, result_types
        names = itertools.count()

        def axes(role: Role) -> str:
            *others, last = (f"axis{next(names)}" for _ in range(3))
            return " ".join(["batch", *others, "channels" if role == "map" else last])

        return " -> ".join(", ".join(map(axes, side)) for side in (operands, results))

    partitioned.def_partition(partition=partition, sharding_rule=rule)
    return partitioned
