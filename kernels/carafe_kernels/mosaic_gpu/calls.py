"""Calls of the kernels that support ``vmap``, shardings and empty batches."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import MAX_INDEX
from carafe_kernels.mosaic_gpu.batching import folded
from carafe_kernels.mosaic_gpu.device import on_cuda
from carafe_kernels.mosaic_gpu.partitioning import on_shards
from carafe_kernels.mosaic_gpu.settings import settings_of
from carafe_kernels.plan import Operands, Plan, Results, Slot
from carafe_kernels.sharding import Role

type Kernels = Callable[[Geometry, Operands], tuple[jax.Array, ...]]

# The role of each array. The first sharded array, in this order, decides the common sharding.
_ROLES: dict[Slot, Role] = {"x": "map", "weights": "weights", "logits": "logits", "y": "map"}


def call_kernels(
    kernels: Kernels, plan: Plan, results: Results, operands: Operands
) -> tuple[jax.Array, ...]:
    """Runs kernels on every device, on its shards of the batch and of the channels.

    Args:
        kernels: function that computes shards of the results from shards of the operands, and from
            the geometry in lowest terms with the groups of a shard.
        plan: plan of the call.
        results: names of the arrays that the kernels compute.
        operands: arrays ``[B, H, W, N]``, at least one of them a map.

    Raises:
        ValueError: the shape of an operand does not agree with the plan and the map. Kernels would
            read memory outside the operand.
    """
    slots = [slot for slot in _ROLES if slot in operands]
    roles = tuple(_ROLES[slot] for slot in slots)
    result_roles = tuple(_ROLES[slot] for slot in results)
    arrays = [operands[slot] for slot in slots]
    geometry, a_map = plan.geometry, roles.index("map")
    batch, *_, channels = arrays[a_map].shape
    for slot, array in zip(slots, arrays, strict=True):
        expected = (batch, *plan.shape(slot, channels))
        if array.shape != expected:
            raise ValueError(f"{slot} must have shape {expected}, got {array.shape}")

    def on_a_shard(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        batch, *_, shard_channels = arrays[a_map].shape
        groups = max(1, geometry.groups * shard_channels // channels)
        if batch == 0:
            return tuple(empty(slot, shard_channels, groups) for slot in results)
        shard_geometry = dataclasses.replace(geometry.lowest_terms, groups=groups)
        return kernels(shard_geometry, dict(zip(slots, arrays, strict=True)))

    def empty(slot: Slot, shard_channels: int, groups: int) -> jax.Array:
        shard_geometry = dataclasses.replace(geometry, groups=groups)
        shape = dataclasses.replace(plan, geometry=shard_geometry).shape(slot, shard_channels)
        return jnp.zeros((0, *shape), plan.dtype(slot))

    interpreted = settings_of(plan).interpret is not None
    run = on_shards(on_a_shard, roles, result_roles, geometry.groups, effects=interpreted)
    largest = max(math.prod(plan.shape(slot, channels)) for slot in (*slots, *results))
    run = folded(run, max_batch=MAX_INDEX // largest)
    if interpreted:
        return run(*arrays)
    first, *others = arrays
    return run(on_cuda(first), *others)
