"""Calls of the kernels wherever JAX takes them: ``vmap``, shardings, empty batches."""

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

# What the array of a slot is, in the order in which they decide on their common sharding.
_ROLES: dict[Slot, Role] = {"x": "map", "weights": "weights", "logits": "logits", "y": "map"}


def call_kernels(
    kernels: Kernels, plan: Plan, results: Results, operands: Operands
) -> tuple[jax.Array, ...]:
    """Runs kernels on every device, with the part of the batch and of the channels that it has.

    Args:
        kernels: from the geometry in lowest terms, with the groups of a part, and parts of the
            operands to parts of the results.
        plan: what stays fixed.
        results: what the kernels compute.
        operands: arrays ``[B, H, W, N]``, at least one of them a map.

    Raises:
        ValueError: an operand has another shape than the plan and the map: kernels would read
            memory outside of it.
    """
    slots = [slot for slot in _ROLES if slot in operands]
    roles = tuple(_ROLES[slot] for slot in slots)
    of_results = tuple(_ROLES[slot] for slot in results)
    arrays = [operands[slot] for slot in slots]
    geometry, a_map = plan.geometry, roles.index("map")
    batch, *_, channels = arrays[a_map].shape
    for slot, array in zip(slots, arrays, strict=True):
        expected = (batch, *plan.shape(slot, channels))
        if array.shape != expected:
            raise ValueError(f"{slot} must have shape {expected}, got {array.shape}")

    def on_a_part(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        batch, *_, part = arrays[a_map].shape
        groups = max(1, geometry.groups * part // channels)
        if batch == 0:
            return tuple(empty(slot, part, groups) for slot in results)
        of_part = dataclasses.replace(geometry.lowest_terms, groups=groups)
        return kernels(of_part, dict(zip(slots, arrays, strict=True)))

    def empty(slot: Slot, part: int, groups: int) -> jax.Array:
        of_part = dataclasses.replace(geometry, groups=groups)
        shape = dataclasses.replace(plan, geometry=of_part).shape(slot, part)
        return jnp.zeros((0, *shape), plan.dtype(slot))

    interpreted = settings_of(plan).interpret is not None
    run = on_shards(on_a_part, roles, of_results, geometry.groups, effects=interpreted)
    largest = max(math.prod(plan.shape(slot, channels)) for slot in (*slots, *results))
    run = folded(run, max_batch=MAX_INDEX // largest)
    if interpreted:
        return run(*arrays)
    first, *others = arrays
    return run(on_cuda(first), *others)
