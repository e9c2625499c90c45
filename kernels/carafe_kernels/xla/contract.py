"""The contractions as an implementation: whole, or on a CPU in the form that is fast there."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap

from carafe_kernels.plan import Operands, Plan, Results, Slot
from carafe_kernels.xla.barriers import computed_once
from carafe_kernels.xla.contractions import (
    forward,
    input_gradient,
    passes_of_input_gradient,
    weight_gradient,
)
from carafe_kernels.xla.loops import input_gradient_in_blocks, weight_gradient_in_blocks
from carafe_kernels.xla.settings import ANYWHERE, Settings, settings_of

_ORDER: tuple[Slot, ...] = ("x", "weights", "y")


def supports(plan: Plan, shape: tuple[Any, ...], device: jax.Device | None = None) -> str | None:
    """Says that XLA serves every contraction of weights, and none of logits."""
    del shape, device
    return None if plan.normalizer is None else "XLA fuses no normaliser into the contractions"


def contract(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    """Computes ``y``, ``x`` or ``weights``, see :class:`carafe_kernels.implementation.Contract`."""
    return tuple(computed_once(_contracted(plan, slot, operands)) for slot in results)


def _contracted(plan: Plan, result: Slot, operands: Operands) -> jax.Array:
    settings = settings_of(plan)
    arrays = [operands[slot] for slot in _ORDER if slot in operands]
    if result == "y" or settings == ANYWHERE:
        return _computed(plan, ANYWHERE, result, *arrays)
    if settings.loops and not all(map(_has_images_of_its_own, arrays)):
        settings = dataclasses.replace(settings, loops=False)

    def on_cpu(settings: Settings) -> Callable[..., jax.Array]:
        computed = functools.partial(_computed, plan, settings, result)
        elsewhere = functools.partial(_computed, plan, ANYWHERE, result)
        return functools.partial(lax.platform_dependent, cpu=computed, default=elsewhere)

    # Under vmap each step of a loop would take a block of every example.
    call = custom_vmap(on_cpu(settings))
    without_loops = on_cpu(dataclasses.replace(settings, loops=False))

    @call.def_vmap
    def vmapped(
        axis_size: int, in_batched: list[bool], *arrays: jax.Array
    ) -> tuple[jax.Array, bool]:
        axes = [0 if batched else None for batched in in_batched]
        return jax.vmap(without_loops, axes, axis_size=axis_size)(*arrays), True

    return call(*arrays)


def _has_images_of_its_own(array: jax.Array) -> bool:
    """Whether a loop can take images from an array: a known number, and no axis on a mesh."""
    batch = array.shape[0]
    return isinstance(batch, int) and batch > 0 and not any(jax.typeof(array).sharding.spec)


def _computed(
    plan: Plan, settings: Settings, result: Slot, first: jax.Array, second: jax.Array
) -> jax.Array:
    """Contracts two operands, which come in the order of :data:`_ORDER`."""
    geometry, dtype, out_dtype = plan.geometry, plan.accumulator, plan.dtype(result)
    loops, block_bytes = settings.loops, settings.block_bytes
    match result:
        case "y":
            out = forward(first, second, geometry, dtype)
        case "x" if loops and _bytes_read(plan, second) > settings.read_bytes:
            return input_gradient_in_blocks(
                first, second, geometry, plan.size, dtype, out_dtype, block_bytes
            )
        case "x":
            out = input_gradient(first, second, geometry, plan.size, dtype)
        case "weights" if loops and first.shape[3] >= settings.summed_channels * geometry.groups:
            return weight_gradient_in_blocks(first, second, geometry, dtype, out_dtype, block_bytes)
        case "weights":
            channels = settings.channels_at_once
            out = weight_gradient(first, second, geometry, dtype, channels_at_once=channels)
    return out.astype(out_dtype)


def _bytes_read(plan: Plan, y: jax.Array) -> float:
    """What an input gradient reads of a padded copy of ``y``; see :attr:`Settings.read_bytes`."""
    itemsize = plan.accumulator.itemsize
    passes = passes_of_input_gradient(plan.geometry)
    return passes * y.size * itemsize * (itemsize / y.dtype.itemsize)
