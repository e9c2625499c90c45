"""The choice between kernels that compute the same results."""

from collections.abc import Callable

import jax
import numpy as np

from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu import (
    forward_bands_kernel,
    forward_kernel,
    input_gradient_bands_kernel,
    input_gradient_kernel,
    weight_gradient_kernel,
    weight_gradient_products_kernel,
)
from carafe_kernels.mosaic_gpu.forward_band_tiling import forward_bands_reason
from carafe_kernels.mosaic_gpu.input_band_tiling import input_bands_reason
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import MULTIPLY_ADD, Settings, settings_of
from carafe_kernels.mosaic_gpu.weight_product_tiling import weight_products_reason
from carafe_kernels.plan import Plan

type TwoOperands = Callable[[jax.Array, jax.Array, Problem, Settings], Work]
type WeightGradient = Callable[[jax.Array, jax.Array, jax.Array | None, Problem, Settings], Work]

# The calls for which a variant was faster in most cases that were measured on an H100, see
# kernels/README.md: dtype of the map, kernel_size, up and down, from weights and from logits. The
# gradients on the tensor cores have not been measured.
type Call = tuple[str, int, int, int]
BANDS: frozenset[Call] = frozenset({("bfloat16", 5, 2, 1), ("float16", 5, 2, 1)})
GRADIENTS_TOGETHER: frozenset[Call] = frozenset(
    {("float32", 5, 2, 1), ("float32", 5, 1, 2), ("bfloat16", 5, 1, 2)}
)


def forward_variant(problem: Problem, settings: Settings) -> tuple[str, TwoOperands]:
    """Name and kernel of the forward pass, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    reason = forward_bands_reason(problem)
    by_table = _call(problem.dtype, problem.geometry) in BANDS
    if _uses_tensor_cores("forward", settings.forward, reason, by_table):
        return "carafe_forward_bands", forward_bands_kernel.forward
    return "carafe_forward", forward_kernel.forward


def input_gradient_variant(problem: Problem, settings: Settings) -> tuple[str, TwoOperands]:
    """Name and kernel of the input gradient, chosen by the settings.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    reason = input_bands_reason(problem)
    if _uses_tensor_cores("input_gradient", settings.input_gradient, reason):
        return "carafe_input_gradient_bands", input_gradient_bands_kernel.input_gradient
    return "carafe_input_gradient", input_gradient_kernel.input_gradient


def weight_gradient_variant(problem: Problem, settings: Settings) -> tuple[str, WeightGradient]:
    """Name and kernel of the weight gradient, chosen by the settings.

    Raises:
        NotImplementedError: the settings name the kernel of products, which cannot serve the
            problem.
    """
    reason = weight_products_reason(problem)
    if _uses_tensor_cores("weight_gradient", settings.weight_gradient, reason):
        return "carafe_weight_gradient_products", weight_gradient_products_kernel.weight_gradient
    return "carafe_weight_gradient", weight_gradient_kernel.weight_gradient


def gradients_together(plan: Plan) -> bool:
    """Whether one launch computes both gradients, by the settings or else by the table."""
    settings = settings_of(plan)
    if settings.gradients is None:
        return _call(plan.x_dtype, plan.geometry.lowest_terms) in GRADIENTS_TOGETHER
    return settings.gradients == "together"


def _uses_tensor_cores(
    contraction: str, named: str | None, reason: str | None, by_table: bool = False
) -> bool:
    """Whether a contraction is computed on the tensor cores.

    Args:
        contraction: name of the field of :class:`Settings`.
        named: value of this field.
        reason: why the tensor cores cannot serve the problem, or ``None``.
        by_table: whether a table chooses the tensor cores if the settings name no kernel.
    """
    if named is None:
        return by_table and reason is None
    if named != MULTIPLY_ADD and reason:
        raise NotImplementedError(f"{contraction} {named!r} cannot serve this call: {reason}")
    return named != MULTIPLY_ADD


def _call(dtype: np.dtype, geometry: Geometry) -> Call:
    return dtype.name, geometry.kernel_size, geometry.up, geometry.down
