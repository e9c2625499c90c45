"""Calls that JAX cannot look into, made on every device with the part of the arrays it has."""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding

from carafe_kernels.placement import (
    Placement,
    Role,
    common_placement,
    explicit_placement,
    resharded,
    varying_axes,
    varying_over,
)

type Function = Callable[..., tuple[jax.Array, ...]]


def on_parts(
    function: Function,
    operands: tuple[Role, ...],
    results: tuple[Role, ...],
    groups: int,
    *,
    effects: bool = False,
) -> Function:
    """Lets every device call a function on its part of the batch and of the channels.

    Under ``jit`` that is so for automatic and for explicit axes of a mesh, and nothing is gathered
    of arrays that lie as :class:`Placement` says; others are moved there. Weight gradients from a
    part of the channels are summed over the devices. In ``pmap`` and ``shard_map`` there are only
    parts anyway. An explicit axis that a ``vmap`` maps over is left to the ``vmap``.

    Args:
        function: from arrays of rank 4 to a tuple of them; sees the sizes of its part only.
        operands: what its arguments are, at least one of them a map.
        results: what it returns.
        groups: channel groups of the whole.
        effects: whether the function has effects, which have no automatic sharding.
    """
    roles = operands, results, groups
    partitioned = function if effects else _partitioned(function, *roles)

    def call(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        mesh, placement = explicit_placement(
            operands, arrays, arrays[operands.index("map")].shape[3], groups
        )
        free = set(mesh.axis_types) - {AxisType.Manual}
        if not free or set(mesh.axis_types) == {AxisType.Auto}:
            out = partitioned(*arrays)
        else:
            specs = tuple(map(placement.spec, operands))
            if AxisType.Explicit in free:
                arrays = tuple(
                    resharded(array, mesh, spec) for array, spec in zip(arrays, specs, strict=True)
                )
            # Without axis_names: all axes but those of a shard_map or an explicit vmap around it.
            out = jax.shard_map(
                _summed(function, placement, results),
                mesh=mesh,
                in_specs=specs,
                out_specs=tuple(map(placement.spec, results)),
                check_vma=False,
            )(*arrays)
        # Neither way keeps track of the axes of a shard_map around it.
        varying = varying_axes(*arrays)
        return tuple(varying_over(array, varying) for array in out)

    return call


def _summed(function: Function, placement: Placement, results: tuple[Role, ...]) -> Function:
    def total(part: jax.Array, role: Role) -> jax.Array:
        axes = placement.summed(role)
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
        placement = common_placement(roles, specs, mesh.shape, channels, groups)
        placed = [NamedSharding(mesh, placement.spec(role)) for role in roles]
        count = len(results)
        return (
            mesh,
            _summed(function, placement, results),
            tuple(placed[:count]),
            tuple(placed[count:]),
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
