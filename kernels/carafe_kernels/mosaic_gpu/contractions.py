"""The contractions of :mod:`carafe_kernels.xla` by kernels, and the same from logits.

From logits, the kernels normalise by themselves. All sums are in float32.
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import input_gradient_kernel, weight_gradient_kernel
from carafe_kernels.mosaic_gpu.arrays import (
    cells_from_logits,
    cells_from_weights,
    copied_dtype,
    logits_from_cells,
    weights_from_cells,
)
from carafe_kernels.mosaic_gpu.calls import Operand, Operands, Result, call_kernels
from carafe_kernels.mosaic_gpu.launch import launch
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import DEFAULT_SETTINGS, Settings
from carafe_kernels.mosaic_gpu.variants import forward_variant


def forward(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    geometry: Geometry,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch out_height out_width channels"]:
    """Reassembles ``x`` with ``weights`` (Eqn. 3), in the dtype of ``x``."""
    return _forward(x, ("weights", weights), geometry, None, settings)


def forward_from_logits(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch rows columns logit_channels"],
    geometry: Geometry,
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch out_height out_width channels"]:
    """Reassembles ``x`` with normalised ``logits`` (section 3.2), in the dtype of ``x``."""
    return _forward(x, ("logits", logits), geometry, normalizer, settings)


def input_gradient(
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[int, int],
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch height width channels"]:
    """Gathers, for each source pixel, ``weights * y`` from its readers, in the dtype of ``y``."""
    return _input_gradient(("weights", weights), y, geometry, size, None, settings)


def input_gradient_from_logits(
    logits: Float[Array, "batch rows columns logit_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    size: tuple[int, int],
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch height width channels"]:
    """As :func:`input_gradient`, with weights that are normalised again from ``logits``."""
    return _input_gradient(("logits", logits), y, geometry, size, normalizer, settings)


def weight_gradient(
    x: Float[Array, "batch height width channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    dtype: np.dtype,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch out_height out_width weight_channels"]:
    """Correlates each output pixel of ``y`` with the sources that its taps read, in ``dtype``."""

    def kernels(x, y, geometry):
        problem = _problem(geometry, x, x.shape[1:3], dtype)
        work = weight_gradient_kernel.weight_gradient(x, y, None, problem, settings)
        (cells,) = launch("carafe_weight_gradient", settings, work)
        return (_from_cells(cells, problem, dtype),)

    result = Result("weights", (*y.shape[1:3], geometry.weight_channels), dtype)
    operands: Operands = ("map", x), ("map", y)
    (dw,) = call_kernels(kernels, operands, (result,), geometry, settings)
    return dw


def logit_gradient(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch rows columns logit_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> Float[Array, "batch rows columns logit_channels"]:
    """The gradient by ``logits``, in their dtype, from that by the output, ``y``."""

    def kernels(x, logits, y, geometry):
        problem = _problem(geometry, x, x.shape[1:3], logits.dtype, normalizer)
        cells = _to_cells(logits, problem)
        work = weight_gradient_kernel.weight_gradient(x, y, cells, problem, settings)
        (cells,) = launch("carafe_weight_gradient", settings, work)
        return (_from_cells(cells, problem, logits.dtype),)

    result = Result("logits", logits.shape[1:], logits.dtype)
    operands: Operands = ("map", x), ("logits", logits), ("map", y)
    (dlogits,) = call_kernels(kernels, operands, (result,), geometry, settings)
    return dlogits


def gradients(
    x: Float[Array, "batch height width channels"],
    weights: Float[Array, "batch out_height out_width weight_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    settings: Settings = DEFAULT_SETTINGS,
) -> tuple[
    Float[Array, "batch height width channels"],
    Float[Array, "batch out_height out_width weight_channels"],
]:
    """Both gradients of :func:`forward` in one launch, in the dtypes of ``x`` and ``weights``."""
    return _gradients(x, ("weights", weights), y, geometry, None, settings)


def gradients_from_logits(
    x: Float[Array, "batch height width channels"],
    logits: Float[Array, "batch rows columns logit_channels"],
    y: Float[Array, "batch out_height out_width channels"],
    geometry: Geometry,
    normalizer: str,
    settings: Settings = DEFAULT_SETTINGS,
) -> tuple[
    Float[Array, "batch height width channels"],
    Float[Array, "batch rows columns logit_channels"],
]:
    """Both gradients of :func:`forward_from_logits` in one launch, in their dtypes."""
    return _gradients(x, ("logits", logits), y, geometry, normalizer, settings)


def _forward(
    x: jax.Array, kernels: Operand, geometry: Geometry, normalizer: str | None, settings: Settings
) -> jax.Array:
    def run(x, kernels, geometry):
        problem = _problem(geometry, x, x.shape[1:3], kernels.dtype, normalizer)
        cells = _to_cells(kernels, problem)
        name, kernel = forward_variant(problem, settings)
        return launch(name, settings, kernel(x, cells, problem, settings))

    _, height, width, channels = x.shape
    size = geometry.output_size(height), geometry.output_size(width)
    result = Result("map", (*size, channels), x.dtype)
    (y,) = call_kernels(run, (("map", x), kernels), (result,), geometry, settings)
    return y


def _input_gradient(
    kernels: Operand,
    y: jax.Array,
    geometry: Geometry,
    size: tuple[int, int],
    normalizer: str | None,
    settings: Settings,
) -> jax.Array:
    def run(kernels, y, geometry):
        problem = _problem(geometry, y, size, kernels.dtype, normalizer)
        cells = _to_cells(kernels, problem)
        work = input_gradient_kernel.input_gradient(cells, y, problem, settings)
        return launch("carafe_input_gradient", settings, work)

    result = Result("map", (*size, y.shape[3]), y.dtype)
    (dx,) = call_kernels(run, (kernels, ("map", y)), (result,), geometry, settings)
    return dx


def _gradients(
    x: jax.Array,
    kernels: Operand,
    y: jax.Array,
    geometry: Geometry,
    normalizer: str | None,
    settings: Settings,
) -> tuple[jax.Array, jax.Array]:
    def run(x, kernels, y, geometry):
        problem = _problem(geometry, x, x.shape[1:3], kernels.dtype, normalizer)
        cells = _to_cells(kernels, problem)
        logits = None if normalizer is None else cells
        dx, gradient = launch(
            "carafe_gradients",
            settings,
            input_gradient_kernel.input_gradient(cells, y, problem, settings),
            weight_gradient_kernel.weight_gradient(x, y, logits, problem, settings),
        )
        return dx, _from_cells(gradient, problem, kernels.dtype)

    role, array = kernels
    results = Result("map", x.shape[1:], x.dtype), Result(role, array.shape[1:], array.dtype)
    operands: Operands = ("map", x), kernels, ("map", y)
    dx, gradient = call_kernels(run, operands, results, geometry, settings)
    return dx, gradient


def _problem(
    geometry: Geometry,
    a_map: jax.Array,
    size: tuple[int, int],
    dtype: np.dtype,
    normalizer: str | None = None,
) -> Problem:
    """With the batch, channels and dtype of a map, and weights or logits of ``dtype``."""
    batch, _, _, channels = a_map.shape
    cells_dtype = copied_dtype(dtype, geometry)
    return Problem(geometry, batch, size, channels, a_map.dtype, cells_dtype, normalizer)


def _to_cells(kernels: jax.Array, problem: Problem) -> jax.Array:
    """Weights or logits as the kernels copy them."""
    kernels = kernels.astype(problem.cells_dtype)
    if problem.normalizer is None:
        return cells_from_weights(kernels, problem.geometry)
    return cells_from_logits(kernels)


def _from_cells(cells: jax.Array, problem: Problem, dtype: np.dtype) -> jax.Array:
    """Undoes :func:`_to_cells`, from any parts."""
    if problem.normalizer is None:
        return weights_from_cells(cells, problem.geometry).astype(dtype)
    return logits_from_cells(cells).astype(dtype)
