"""Reassembly in Pallas kernels for NVIDIA GPUs (Mosaic GPU), forward and backward.

The three contractions of :mod:`carafe_kernels.xla`, and the same with logits that are normalised
in the kernel. All sums are in float32. Layouts, tiles and what was measured:
``kernels/README.md``.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import (
    input_gradient_kernel,
    weight_gradient_kernel,
)
from carafe_kernels.mosaic_gpu.arrays import (
    cells_from_logits,
    cells_from_weights,
    copied_dtype,
    join_parts,
    weights_from_cells,
)
from carafe_kernels.mosaic_gpu.batching import folded
from carafe_kernels.mosaic_gpu.device import device_reason, on_cuda
from carafe_kernels.mosaic_gpu.launch import Work, launch
from carafe_kernels.mosaic_gpu.partitioning import on_parts
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import (
    DEFAULT_SETTINGS,
    Settings,
    current_settings,
    interpreted,
    using,
)
from carafe_kernels.mosaic_gpu.tiling import TooLargeError, forward_tile, input_gradient_tile
from carafe_kernels.mosaic_gpu.variants import forward_variant
from carafe_kernels.mosaic_gpu.weight_tiling import weight_gradient_tile
from carafe_kernels.placement import Role

__all__ = [
    "Settings",
    "current_settings",
    "forward",
    "forward_from_logits",
    "input_gradient",
    "input_gradient_from_logits",
    "interpreted",
    "logit_gradient",
    "supports",
    "using",
    "weight_gradient",
]

KERNEL_SIZES = (1, 3, 5, 7)
UPS = (1, 2, 3, 4)
DOWNS = (1, 2, 3)
_DTYPES = ("float16", "bfloat16", "float32")
_MAX_ELEMENTS = 2**31 - 1  # indices are 32-bit

type _Roles = tuple[Role, ...]  # of the operands and, last, of the result


def supports(
    geometry: Geometry,
    dtype: np.dtype,
    shape: tuple[Any, ...],
    device: jax.Device | None = None,
    *,
    weights_dtype: np.dtype | None = None,
    normalizer: str | None = None,
) -> str | None:
    """Why the kernels cannot serve a reassembly and its gradients; ``None`` if they can.

    Args:
        geometry: shape of the reassembly.
        dtype: of the map.
        shape: of the map, ``[B, H, W, C]``; sizes may be symbolic.
        device: where it is to run, or ``None`` if that is not known yet.
        weights_dtype: of the weights or logits; that of the map by default.
        normalizer: for logits, what turns them into weights in the kernel.
    """
    dtypes = np.dtype(dtype), np.dtype(dtype if weights_dtype is None else weights_dtype)
    if reason := device_reason(device):
        return reason
    reduced = geometry.lowest_terms
    if reduced.up > 1 and reduced.down > 1:
        return f"they rescale by up or by down, not by {reduced.up} / {reduced.down}"
    if (
        reduced.kernel_size not in KERNEL_SIZES
        or reduced.up not in UPS
        or reduced.down not in DOWNS
    ):
        return (
            f"they serve kernel_size in {KERNEL_SIZES}, up in {UPS} and down in {DOWNS}, "
            f"not {geometry}"
        )
    if normalizer is not None and geometry != reduced:
        return f"they normalise logits of up and down in lowest terms, not of {geometry}"
    for name in {d.name for d in dtypes} - set(_DTYPES):
        return f"they compute in float32, from {', '.join(_DTYPES)}, not from {name}"
    if not all(isinstance(size, int) for size in shape):
        return f"they need a static shape, not {shape}"
    copied = copied_dtype(dtypes[1], reduced)
    problem = _problem(reduced, shape, dtypes[0], copied, normalizer)
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
        if (elements := problem.batch * size) > _MAX_ELEMENTS:
            return f"{name} has {elements:,} elements, and their indices end at {_MAX_ELEMENTS:,}"
    return None


def forward(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    geometry: Geometry,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch out_height out_width channels"]:
    """Reassembles ``x`` with ``weights`` (Eqn. 3), in the dtype of ``x``."""

    def call(x, weights, geometry, settings):
        weights = _copied(weights, geometry)
        problem = _problem(geometry, x.shape, x.dtype, weights.dtype)
        cells = cells_from_weights(weights, geometry)
        name, kernel = forward_variant(problem, settings)
        return _launched(name, settings, kernel(x, cells, problem, settings))

    roles: _Roles = ("map", "weights", "map")
    return _call(call, settings, geometry, _shape_of_y(x, geometry), x.dtype, roles, x, weights)


def forward_from_logits(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch rows columns logit_channels"],
    geometry: Geometry,
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch out_height out_width channels"]:
    """Reassembles ``x`` with normalised ``logits`` (section 3.2), in the dtype of ``x``."""

    def call(x, logits, geometry, settings):
        logits = _copied(logits, geometry)
        problem = _problem(geometry, x.shape, x.dtype, logits.dtype, normalizer)
        name, kernel = forward_variant(problem, settings)
        work = kernel(x, cells_from_logits(logits), problem, settings)
        return _launched(name, settings, work)

    roles: _Roles = ("map", "logits", "map")
    return _call(call, settings, geometry, _shape_of_y(x, geometry), x.dtype, roles, x, logits)


def input_gradient(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[int, int],
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch height width channels"]:
    """Gathers, for each source pixel, ``weights * y`` from its readers, in the dtype of ``y``."""

    def call(weights, y, geometry, settings):
        shape = (y.shape[0], *size, y.shape[3])
        weights = _copied(weights, geometry)
        problem = _problem(geometry, shape, y.dtype, weights.dtype)
        cells = cells_from_weights(weights, geometry)
        work = input_gradient_kernel.input_gradient(cells, y, problem, settings)
        return _launched("carafe_input_gradient", settings, work)

    roles: _Roles = ("weights", "map", "map")
    return _call(call, settings, geometry, (*size, y.shape[3]), y.dtype, roles, weights, y)


def input_gradient_from_logits(
    logits: Float[Array, "batch rows columns logit_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[int, int],
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch height width channels"]:
    """As :func:`input_gradient`, with weights that are normalised again from ``logits``."""

    def call(logits, y, geometry, settings):
        shape = (y.shape[0], *size, y.shape[3])
        logits = _copied(logits, geometry)
        problem = _problem(geometry, shape, y.dtype, logits.dtype, normalizer)
        cells = cells_from_logits(logits)
        work = input_gradient_kernel.input_gradient(cells, y, problem, settings)
        return _launched("carafe_input_gradient", settings, work)

    roles: _Roles = ("logits", "map", "map")
    return _call(call, settings, geometry, (*size, y.shape[3]), y.dtype, roles, logits, y)


def weight_gradient(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    dtype: np.dtype,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Correlates each output pixel of ``y`` with the sources that its taps read, in ``dtype``."""

    def call(x, y, geometry, settings):
        problem = _problem(geometry, x.shape, x.dtype, copied_dtype(dtype, geometry))
        work = weight_gradient_kernel.weight_gradient(x, y, None, problem, settings)
        cells = _launched("carafe_weight_gradient", settings, work)
        return weights_from_cells(cells, geometry).astype(dtype)

    shape = (*y.shape[1:3], geometry.weight_channels)
    return _call(call, settings, geometry, shape, dtype, ("map", "map", "weights"), x, y)


def logit_gradient(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch rows columns logit_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch rows columns logit_channels"]:
    """The gradient by ``logits``, in their dtype, from that by the output, ``y``."""

    def call(x, logits, y, geometry, settings):
        cells = cells_from_logits(_copied(logits, geometry))
        problem = _problem(geometry, x.shape, x.dtype, cells.dtype, normalizer)
        work = weight_gradient_kernel.weight_gradient(x, y, cells, problem, settings)
        gradient = _launched("carafe_weight_gradient", settings, work)
        return join_parts(gradient)[:, :, 0].astype(logits.dtype)

    roles: _Roles = ("map", "logits", "map", "logits")
    return _call(call, settings, geometry, logits.shape[1:], logits.dtype, roles, x, logits, y)


def _launched(name: str, settings: Settings, work: Work) -> jax.Array:
    (result,) = launch(name, settings, work)
    return result


def _copied(cells: jax.Array, geometry: Geometry) -> jax.Array:
    return cells.astype(copied_dtype(cells.dtype, geometry))


def _problem(
    geometry: Geometry,
    shape: tuple[int, ...],
    dtype: np.dtype,
    cells_dtype: np.dtype,
    normalizer: str | None = None,
) -> Problem:
    batch, height, width, channels = shape
    dtypes = np.dtype(dtype), np.dtype(cells_dtype)
    return Problem(geometry, batch, (height, width), channels, *dtypes, normalizer)


def _shape_of_y(x: jax.Array, geometry: Geometry) -> tuple[int, ...]:
    _, height, width, channels = x.shape
    return geometry.output_size(height), geometry.output_size(width), channels


def _call(
    call: Callable[..., jax.Array],
    settings: Settings,
    geometry: Geometry,
    shape: tuple[int, ...],
    dtype: np.dtype,
    roles: _Roles,
    *arrays: jax.Array,
) -> jax.Array:
    """Runs ``call(*arrays, geometry, settings)`` on every device's part of the arrays."""
    *operands, result = roles
    a_map = operands.index("map")
    channels = arrays[a_map].shape[3]

    def on_a_part(*arrays: jax.Array) -> jax.Array:
        batch, *_, part = arrays[a_map].shape
        groups = max(1, geometry.groups * part // channels)
        if batch == 0:
            last = part if result == "map" else shape[-1] * groups // geometry.groups
            return jnp.zeros((0, *shape[:-1], last), dtype)
        return call(*arrays, dataclasses.replace(geometry.lowest_terms, groups=groups), settings)

    interpreted = settings.interpret is not None
    run = on_parts(on_a_part, tuple(operands), result, geometry.groups, effects=interpreted)
    largest = max(math.prod(size) for size in (shape, *(array.shape[1:] for array in arrays)))
    run = folded(run, max_batch=_MAX_ELEMENTS // largest)
    if interpreted:
        return run(*arrays)
    first, *others = arrays
    return run(on_cuda(first), *others)
