"""The choice between kernels that compute the same results."""

from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import (
    forward_bands_kernel,
    forward_kernel,
    input_gradient_bands_kernel,
    input_gradient_kernel,
    weight_gradient_bands_kernel,
    weight_gradient_kernel,
)
from carafe_kernels.mosaic_gpu.band_tiling import bands_reason
from carafe_kernels.mosaic_gpu.input_band_tiling import input_bands_reason
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings, settings_of
from carafe_kernels.mosaic_gpu.weight_band_tiling import weight_bands_reason
from carafe_kernels.plan import Plan

type Forward = Callable[[jax.Array, jax.Array, Problem, Settings], Work]
type InputGradient = Callable[[jax.Array, jax.Array, Problem, Settings], Work]
type WeightGradient = Callable[[jax.Array, jax.Array, jax.Array | None, Problem, Settings], Work]
type _Contraction = Literal["forward", "input_gradient", "weight_gradient"]

# The calls for which a variant was faster in most cases that were measured on an H100, see
# kernels/README.md: dtype of the map, kernel_size, up and down, from weights and from logits. The
# gradients on the tensor cores have not been measured.
type Call = tuple[str, int, int, int]
BANDS: dict[_Contraction, frozenset[Call]] = {
    "forward": frozenset({("bfloat16", 5, 2, 1), ("float16", 5, 2, 1)}),
    "input_gradient": frozenset(),
    "weight_gradient": frozenset(),
}
GRADIENTS_TOGETHER: frozenset[Call] = frozenset(
    {("float32", 5, 2, 1), ("float32", 5, 1, 2), ("bfloat16", 5, 1, 2)}
)


def forward_variant(problem: Problem, settings: Settings) -> tuple[str, Forward]:
    """Name and kernel of the forward pass, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    if _uses_bands("forward", problem, settings, bands_reason):
        return "carafe_forward_bands", forward_bands_kernel.forward
    return "carafe_forward", forward_kernel.forward


def input_gradient_variant(problem: Problem, settings: Settings) -> tuple[str, InputGradient]:
    """Name and kernel of the input gradient, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    if _uses_bands("input_gradient", problem, settings, input_bands_reason):
        return "carafe_input_gradient_bands", input_gradient_bands_kernel.input_gradient
    return "carafe_input_gradient", input_gradient_kernel.input_gradient


def weight_gradient_variant(problem: Problem, settings: Settings) -> tuple[str, WeightGradient]:
    """Name and kernel of the weight gradient, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    if _uses_bands("weight_gradient", problem, settings, weight_bands_reason):
        return "carafe_weight_gradient_bands", weight_gradient_bands_kernel.weight_gradient
    return "carafe_weight_gradient", weight_gradient_kernel.weight_gradient


def gradients_together(plan: Plan) -> bool:
    """Whether one launch computes both gradients, by the settings or else by the table."""
    settings = settings_of(plan)
    if settings.gradients is None:
        return _call(plan.x_dtype, plan.geometry.lowest_terms) in GRADIENTS_TOGETHER
    return settings.gradients == "together"


def _uses_bands(
    contraction: _Contraction,
    problem: Problem,
    settings: Settings,
    reason_of: Callable[[Problem], str | None],
) -> bool:
    named = getattr(settings, contraction)
    call = _call(problem.dtype, problem.geometry)
    if named == "multiply_add" or (named is None and call not in BANDS[contraction]):
        return False
    reason = reason_of(problem)
    if named == "bands" and reason:
        raise NotImplementedError(f"{contraction} 'bands' cannot serve this call: {reason}")
    return reason is None


def _call(dtype: np.dtype, geometry: Geometry) -> Call:
    return dtype.name, geometry.kernel_size, geometry.up, geometry.down
