"""The choice between kernels that compute the same results."""

from collections.abc import Callable

import jax
import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import (
    forward_bands_kernel,
    forward_kernel,
    weight_gradient_bands_kernel,
    weight_gradient_kernel,
)
from carafe_kernels.mosaic_gpu.band_tiling import bands_reason
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings, settings_of
from carafe_kernels.mosaic_gpu.weight_band_tiling import weight_bands_reason
from carafe_kernels.plan import Plan

type InputGradient = Callable[[jax.Array, jax.Array, Problem, Settings], Work]
type WeightGradient = Callable[[jax.Array, jax.Array, jax.Array | None, Problem, Settings], Work]
type Forward = Callable[[jax.Array, jax.Array, Problem, Settings], Work]

# The calls for which a variant was faster in most cases that were measured on an H100, see
# kernels/README.md: dtype of the map, kernel_size, up and down, from weights and from logits.
type Call = tuple[str, int, int, int]
BANDS: frozenset[Call] = frozenset({("bfloat16", 5, 2, 1), ("float16", 5, 2, 1)})
GRADIENTS_TOGETHER: frozenset[Call] = frozenset(
    {("float32", 5, 2, 1), ("float32", 5, 1, 2), ("bfloat16", 5, 1, 2)}
)


def forward_variant(problem: Problem, settings: Settings) -> tuple[str, Forward]:
    """Name and kernel of the forward pass, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    reason = bands_reason(problem)
    if settings.forward == "bands" and reason:
        raise NotImplementedError(f"forward 'bands' cannot serve this call: {reason}")
    call = _call(problem.dtype, problem.geometry)
    by_table = "bands" if call in BANDS and not reason else "multiply_add"
    if (settings.forward or by_table) == "bands":
        return "carafe_forward_bands", forward_bands_kernel.forward
    return "carafe_forward", forward_kernel.forward


def weight_gradient_variant(problem: Problem, settings: Settings) -> tuple[str, WeightGradient]:
    """Name and kernel of the weight gradient, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    reason = weight_bands_reason(problem)
    if settings.weight_gradient == "bands" and reason:
        raise NotImplementedError(f"weight_gradient 'bands' cannot serve this call: {reason}")
    if settings.weight_gradient == "bands":
        return "carafe_weight_gradient_bands", weight_gradient_bands_kernel.weight_gradient
    return "carafe_weight_gradient", weight_gradient_kernel.weight_gradient


def gradients_together(plan: Plan) -> bool:
    """Whether one launch computes both gradients, by the settings or else by the table."""
    settings = settings_of(plan)
    if settings.gradients is None:
        return _call(plan.x_dtype, plan.geometry.lowest_terms) in GRADIENTS_TOGETHER
    return settings.gradients == "together"


def _call(dtype: np.dtype, geometry: Geometry) -> Call:
    return dtype.name, geometry.kernel_size, geometry.up, geometry.down
