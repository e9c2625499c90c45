"""Calls of the kernels wherever JAX takes them: ``vmap``, shardings, empty batches."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import MAX_INDEX
from carafe_kernels.mosaic_gpu.batching import folded
from carafe_kernels.mosaic_gpu.device import on_cuda
from carafe_kernels.mosaic_gpu.partitioning import on_parts
from carafe_kernels.mosaic_gpu.settings import Settings
from carafe_kernels.placement import Role

type Operand = tuple[Role, jax.Array]
type Operands = tuple[Operand, ...]
type Kernels = Callable[..., tuple[jax.Array, ...]]


class Result(NamedTuple):
    """An array that kernels compute.

    Args:
        role: what it is.
        shape: ``[H, W, N]`` of one map, all channels of it.
        dtype: of the elements.
    """

    role: Role
    shape: tuple[int, ...]
    dtype: np.dtype


def call_kernels(
    kernels: Kernels,
    operands: Operands,
    results: tuple[Result, ...],
    geometry: Geometry,
    settings: Settings,
) -> tuple[jax.Array, ...]:
    """Runs kernels on every device, with the part of the batch and of the channels that it has.

    Args:
        kernels: from parts of the operands, and the geometry in lowest terms with the groups of
            the part, to parts of the results.
        operands: arrays ``[B, H, W, N]`` and what they are; at least one is a map.
        results: what the kernels return.
        geometry: shape of the reassembly.
        settings: how to compile and run.
    """
    roles = tuple(role for role, _ in operands)
    arrays = [array for _, array in operands]
    a_map = roles.index("map")
    channels = arrays[a_map].shape[3]

    def on_a_part(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        batch, *_, part = arrays[a_map].shape
        groups = max(1, geometry.groups * part // channels)
        if batch == 0:
            return tuple(empty(result, part, groups) for result in results)
        return kernels(*arrays, dataclasses.replace(geometry.lowest_terms, groups=groups))

    def empty(result: Result, part: int, groups: int) -> jax.Array:
        *size, last = result.shape
        last = part if result.role == "map" else last * groups // geometry.groups
        return jnp.zeros((0, *size, last), result.dtype)

    interpreted = settings.interpret is not None
    of_results = tuple(result.role for result in results)
    run = on_parts(on_a_part, roles, of_results, geometry.groups, effects=interpreted)
    shapes = [*(result.shape for result in results), *(array.shape[1:] for array in arrays)]
    run = folded(run, max_batch=MAX_INDEX // max(map(math.prod, shapes)))
    if interpreted:
        return run(*arrays)
    first, *others = arrays
    return run(on_cuda(first), *others)
