"""The calls that the kernels support."""

import math
from typing import Any

import jax

from carafe_kernels.mosaic_gpu.arrays import MAX_INDEX, copied_dtype
from carafe_kernels.mosaic_gpu.buffers import TooLargeError
from carafe_kernels.mosaic_gpu.device import device_reason
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import forward_tile, input_gradient_tile
from carafe_kernels.mosaic_gpu.weight_tiling import weight_gradient_tile
from carafe_kernels.plan import Plan

KERNEL_SIZES = (1, 3, 5, 7)
UPS = (1, 2, 3, 4)
DOWNS = (1, 2, 3)
_DTYPES = ("float16", "bfloat16", "float32")


def supports(plan: Plan, shape: tuple[Any, ...], device: jax.Device | None = None) -> str | None:
    """Why the kernels cannot serve a call, see :class:`carafe_kernels.implementation.Supports`."""
    geometry, normalizer = plan.geometry, plan.normalizer
    if reason := device_reason(device):
        return reason
    if plan.resize is not None:
        rows, columns = (axis.scale for axis in (plan.resize.rows, plan.resize.columns))
        return f"it rescales both axes by one integer, up or down, not by {rows} and {columns}"
    reduced = geometry.lowest_terms
    if reduced.up > 1 and reduced.down > 1:
        return f"it rescales by up or by down, not by {reduced.up} / {reduced.down}"
    if (
        reduced.kernel_size not in KERNEL_SIZES
        or reduced.up not in UPS
        or reduced.down not in DOWNS
    ):
        return (
            f"it serves kernel_size in {KERNEL_SIZES}, up in {UPS} and down in {DOWNS}, "
            f"not {geometry}"
        )
    if normalizer is not None and geometry != reduced:
        return f"it normalises logits with up and down in lowest terms, not with {geometry}"
    for name in {plan.x_dtype.name, plan.weights_dtype.name} - set(_DTYPES):
        return f"it computes in float32, from {', '.join(_DTYPES)}, not from {name}"
    if not all(isinstance(size, int) for size in shape):
        return f"it needs a static shape, not {shape}"
    batch, height, width, channels = shape
    copied = copied_dtype(plan.weights_dtype, reduced)
    problem = Problem(reduced, batch, (height, width), channels, plan.x_dtype, copied, normalizer)
    if reason := _size_reason(problem):
        return reason
    try:
        for tile in (forward_tile, input_gradient_tile, weight_gradient_tile):
            tile(problem)
    except TooLargeError:
        return f"{geometry} needs more shared memory than a block has"
    return None


def _size_reason(problem: Problem) -> str | None:
    maps = {"x": problem.size, "y": problem.output_size}
    sizes = {name: math.prod(size) * problem.channels for name, size in maps.items()}
    sizes["weights"] = math.prod(problem.cells) * problem.geometry.logit_channels
    for name, size in sizes.items():
        if (elements := problem.batch * size) > MAX_INDEX:
            return f"{name} has {elements:,} elements; at most {MAX_INDEX:,} are supported"
    return None
