"""The contractions, computed by GPU kernels from weights or from logits.

The kernels normalise logits themselves. All sums are in float32.
"""

import functools

import jax
import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import (
    cells_from_logits,
    cells_from_weights,
    copied_dtype,
    logits_from_cells,
    weights_from_cells,
)
from carafe_kernels.mosaic_gpu.calls import call_kernels
from carafe_kernels.mosaic_gpu.launch import launch
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import settings_of
from carafe_kernels.mosaic_gpu.variants import (
    forward_variant,
    input_gradient_variant,
    weight_gradient_variant,
)
from carafe_kernels.plan import Operands, Plan, Results


def contract(plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
    """Computes one or two results, see :class:`carafe_kernels.implementation.Contract`."""
    match results:
        case ("y",):
            kernels = _forward
        case ("x",):
            kernels = _input_gradient
        case ("weights" | "logits",):
            kernels = _weight_gradient
        case ("x", "weights" | "logits"):
            kernels = _gradients
        case _:
            raise ValueError(f"results must name one contraction or both gradients, got {results}")
    return call_kernels(functools.partial(kernels, plan), plan, results, operands)


def _forward(plan: Plan, geometry: Geometry, operands: Operands) -> tuple[jax.Array, ...]:
    settings, x = settings_of(plan), operands["x"]
    problem = _problem(plan, geometry, x)
    name, kernel = forward_variant(problem, settings)
    return launch(name, settings, kernel(x, _cells(problem, operands), problem, settings))


def _input_gradient(plan: Plan, geometry: Geometry, operands: Operands) -> tuple[jax.Array, ...]:
    settings, y = settings_of(plan), operands["y"]
    problem = _problem(plan, geometry, y)
    cells = _cells(problem, operands)
    name, kernel = input_gradient_variant(problem, settings)
    return launch(name, settings, kernel(cells, y, problem, settings))


def _weight_gradient(plan: Plan, geometry: Geometry, operands: Operands) -> tuple[jax.Array, ...]:
    settings, x, y = settings_of(plan), operands["x"], operands["y"]
    problem = _problem(plan, geometry, x)
    logits = None if plan.normalizer is None else _cells(problem, operands)
    name, kernel = weight_gradient_variant(problem, settings)
    (gradient,) = launch(name, settings, kernel(x, y, logits, problem, settings))
    return (_from_cells(gradient, problem, plan.weights_dtype),)


def _gradients(plan: Plan, geometry: Geometry, operands: Operands) -> tuple[jax.Array, ...]:
    settings, x, y = settings_of(plan), operands["x"], operands["y"]
    problem = _problem(plan, geometry, x)
    cells = _cells(problem, operands)
    logits = None if plan.normalizer is None else cells
    _, input_gradient = input_gradient_variant(problem, settings)
    _, weight_gradient = weight_gradient_variant(problem, settings)
    dx, gradient = launch(
        "carafe_gradients",
        settings,
        input_gradient(cells, y, problem, settings),
        weight_gradient(x, y, logits, problem, settings),
    )
    return dx, _from_cells(gradient, problem, plan.weights_dtype)


def _problem(plan: Plan, geometry: Geometry, a_map: jax.Array) -> Problem:
    """The problem of one device, from its shard of one of the maps."""
    batch, _, _, channels = a_map.shape
    cells_dtype = copied_dtype(plan.weights_dtype, geometry)
    return Problem(geometry, batch, plan.size, channels, a_map.dtype, cells_dtype, plan.normalizer)


def _cells(problem: Problem, operands: Operands) -> jax.Array:
    """Weights or logits in the layout that the kernels copy."""
    if problem.normalizer is None:
        weights = operands["weights"].astype(problem.cells_dtype)
        return cells_from_weights(weights, problem.geometry)
    return cells_from_logits(operands["logits"].astype(problem.cells_dtype))


def _from_cells(cells: jax.Array, problem: Problem, dtype: np.dtype) -> jax.Array:
    """Weights or logits from the layout that the kernels store, the inverse of :func:`_cells`."""
    if problem.normalizer is None:
        return weights_from_cells(cells, problem.geometry).astype(dtype)
    return logits_from_cells(cells).astype(dtype)
