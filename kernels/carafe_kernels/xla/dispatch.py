"""Chooses the form of each contraction that is fast on the platform of the program."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap

from carafe_kernels.axes import merge_axes, split_axis
from carafe_kernels.geometry import Resize
from carafe_kernels.plan import Operands, Plan, Results, Slot
from carafe_kernels.xla.barriers import computed_once, stored_on_gpu
from carafe_kernels.xla.borders import downsample_in_parts, share_inside
from carafe_kernels.xla.contractions import (
    forward,
    input_gradient,
    passes_of_forward,
    passes_of_input_gradient,
    weight_gradient,
)
from carafe_kernels.xla.loops import input_gradient_in_blocks, weight_gradient_in_blocks
from carafe_kernels.xla.resizing import (
    resized_forward,
    resized_input_gradient,
    resized_input_gradient_in_blocks,
    resized_weight_gradient,
    resized_weight_gradient_in_blocks,
)
from carafe_kernels.xla.settings import Settings, settings_of

type Contraction = Callable[[jax.Array, jax.Array], jax.Array]

_ORDER: tuple[Slot, ...] = ("x", "weights", "y")


def supports(plan: Plan, shape: tuple[Any, ...], device: jax.Device | None = None) -> str | None:
    """Supports every contraction of weights, and none of logits."""
    del shape, device
    return None if plan.normalizer is None else "XLA does not fuse the normaliser"


def contract(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    """Computes contractions as :class:`carafe_kernels.implementation.Contract` describes."""
    # Contractions read and compute the weights of one tap at a time, so XLA for GPUs splits weights
    # into an array for each tap. It would compute a softmax, or its gradient, in the same kernels,
    # one for each tap. XLA for CPUs computes the weights once; there, the barrier would make
    # downsampling slower.
    found = []
    for result in results:
        first, second = (
            stored_on_gpu(operands[slot]) if slot == "weights" else operands[slot]
            for slot in _ORDER
            if slot != result
        )
        array = computed_once(_contracted(plan, result, first, second))
        found.append(stored_on_gpu(array) if result == "weights" else array)
    return tuple(found)


def _contracted(plan: Plan, result: Slot, first: jax.Array, second: jax.Array) -> jax.Array:
    """Contracts two operands, given in the order of :data:`_ORDER`."""
    if result != "y":
        # Both gradients read the cotangent. XLA would compute it again inside each of them, and
        # would keep the output of the forward pass in memory until both are computed.
        second = computed_once(second)
    general = functools.partial(_general_form, plan, result)
    if result == "weights" and not plan.lists_centres and settings_of(plan).channels_at_once:
        in_passes = functools.partial(_weight_gradient_in_passes, plan)
        general = functools.partial(lax.platform_dependent, cpu=in_passes, default=general)
    form_for_images = _form_for_images(plan, result, first, second)
    if form_for_images is None:
        return general(first, second)
    on_cpu = functools.partial(lax.platform_dependent, cpu=form_for_images, default=general)
    return _folding_vmap(on_cpu, general)(first, second)


def _general_form(plan: Plan, result: Slot, first: jax.Array, second: jax.Array) -> jax.Array:
    dtype = plan.accumulator
    if plan.resize is not None and plan.lists_centres:
        out = _resized(plan, result, first, second, plan.resize)
        return out.astype(plan.dtype(result))
    match result:
        case "y":
            out = forward(first, second, plan.geometry, dtype)
        case "x":
            out = input_gradient(first, second, plan.geometry, plan.size, dtype)
        case "weights":
            out = weight_gradient(first, second, plan.geometry, dtype)
    return out.astype(plan.dtype(result))


def _resized(
    plan: Plan, result: Slot, first: jax.Array, second: jax.Array, resize: Resize
) -> jax.Array:
    static = (plan.geometry, resize, plan.accumulator)
    match result:
        case "y":
            return resized_forward(first, second, *static)
        case "x":
            return resized_input_gradient(first, second, *static)
    return resized_weight_gradient(first, second, *static)


def _weight_gradient_in_passes(plan: Plan, x: jax.Array, y: jax.Array) -> jax.Array:
    channels = settings_of(plan).channels_at_once
    out = weight_gradient(x, y, plan.geometry, plan.accumulator, channels_at_once=channels)
    return out.astype(plan.dtype("weights"))


def _form_for_images(
    plan: Plan, result: Slot, first: jax.Array, second: jax.Array
) -> Contraction | None:
    """The form for whole images on a CPU, or ``None`` where the general form is as fast."""
    settings = settings_of(plan)
    if not (_has_whole_images(first) and _has_whole_images(second)):
        return None
    options: dict[str, Any] = {
        "geometry": plan.geometry,
        "dtype": plan.accumulator,
        "result_dtype": plan.dtype(result),
    }
    if plan.resize is not None and plan.lists_centres:
        # The loop also needs less memory, which grows with the outputs of each source.
        if result == "y" or not settings.loops:
            return None
        x_form, w_form = resized_input_gradient_in_blocks, resized_weight_gradient_in_blocks
        return functools.partial(
            x_form if result == "x" else w_form,
            resize=plan.resize,
            block_bytes=settings.block_bytes,
            **options,
        )
    if result == "y":
        if not _only_border_is_copied(plan, settings, first):
            return None
        return functools.partial(downsample_in_parts, **options)
    if not _loop_is_faster(plan, settings, result, first, second):
        return None
    options["block_bytes"] = settings.block_bytes
    if result == "x":
        return functools.partial(input_gradient_in_blocks, size=plan.size, **options)
    return functools.partial(weight_gradient_in_blocks, **options)


def _only_border_is_copied(plan: Plan, settings: Settings, x: jax.Array) -> bool:
    """Whether a forward pass reads the map itself and copies only its border."""
    geometry = plan.geometry.lowest_terms
    if settings.max_padded_bytes is None or geometry.up > 1 or geometry.down == 1:
        return False
    if not _weight_gradient_is_a_loop(plan, settings, x):
        return False  # the gradient needs a padded copy of the map, which the forward pass can use
    if x.dtype != plan.accumulator and passes_of_forward(geometry) > 1:
        return False  # each pass would convert the map again
    copied = x.size * plan.accumulator.itemsize > settings.max_padded_bytes
    return copied and share_inside(geometry, plan.size) >= settings.min_share_inside


def _loop_is_faster(
    plan: Plan, settings: Settings, result: Slot, first: jax.Array, second: jax.Array
) -> bool:
    """Whether a loop over blocks of rows computes a gradient faster."""
    if result == "weights":
        return _weight_gradient_is_a_loop(plan, settings, first)
    y, itemsize = second, plan.accumulator.itemsize
    read = passes_of_input_gradient(plan.geometry) * y.size * itemsize
    converted = y.dtype.itemsize < itemsize
    return settings.loops and read > settings.max_read_bytes / (2 if converted else 1)


def _weight_gradient_is_a_loop(plan: Plan, settings: Settings, x: jax.Array) -> bool:
    return settings.loops and x.shape[3] >= settings.min_summed_channels * plan.geometry.groups


def _has_whole_images(array: jax.Array) -> bool:
    """Whether an array can be sliced: its sizes are known, and no explicit mesh axis shards it."""
    known = all(isinstance(size, int) for size in array.shape)
    return known and array.shape[0] > 0 and not any(jax.typeof(array).sharding.spec)


def _folding_vmap(for_images: Contraction, general: Contraction) -> Contraction:
    """Makes ``vmap`` of a contraction merge the mapped axis into the batch axis.

    Args:
        for_images: contraction of two operands whose leading axis is the batch, like the leading
            axis of the result.
        general: the same contraction, in a form for any operands. It is used if only one operand is
            mapped, or if a mesh shards an operand.
    """
    call = custom_vmap(for_images)

    @call.def_vmap
    def vmapped(
        axis_size: int, in_batched: list[bool], first: jax.Array, second: jax.Array
    ) -> tuple[jax.Array, bool]:
        if all(in_batched) and _has_whole_images(first) and _has_whole_images(second):
            out = call(merge_axes(first, 0), merge_axes(second, 0))
            return split_axis(out, 0, axis_size, first.shape[1]), True
        axes = [0 if batched else None for batched in in_batched]
        return jax.vmap(general, axes, axis_size=axis_size)(first, second), True

    return call
