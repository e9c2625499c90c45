"""The choice between kernels that compute the same results."""

from collections.abc import Callable

import jax

from carafe_kernels.mosaic_gpu import forward_bands_kernel, forward_kernel
from carafe_kernels.mosaic_gpu.band_tiling import bands_reason
from carafe_kernels.mosaic_gpu.launch import Work
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.settings import Settings, settings_of
from carafe_kernels.plan import Plan

type Forward = Callable[[jax.Array, jax.Array, Problem, Settings], Work]

# The problems for which a variant was faster on a GPU: (dtype of the map, kernel_size, whether the
# operands are logits).
BANDS: frozenset[tuple[str, int, bool]] = frozenset()
GRADIENTS_TOGETHER: frozenset[tuple[str, int, bool]] = frozenset()


def forward_variant(problem: Problem, settings: Settings) -> tuple[str, Forward]:
    """Name and kernel of the forward pass, chosen by the settings or else by the table.

    Raises:
        NotImplementedError: the settings name the bands kernel, which cannot serve the problem.
    """
    reason = bands_reason(problem)
    if settings.forward == "bands" and reason:
        raise NotImplementedError(f"forward 'bands' cannot serve this call: {reason}")
    case = problem.dtype.name, problem.geometry.kernel_size, problem.normalizer is not None
    by_table = "bands" if case in BANDS and not reason else "multiply_add"
    if (settings.forward or by_table) == "bands":
        return "carafe_forward_bands", forward_bands_kernel.forward
    return "carafe_forward", forward_kernel.forward


def gradients_together(plan: Plan) -> bool:
    """Whether one launch computes both gradients, by the settings or else by the table."""
    settings = settings_of(plan)
    if settings.gradients is None:
        case = plan.x_dtype.name, plan.geometry.kernel_size, plan.normalizer is not None
        return case in GRADIENTS_TOGETHER
    return settings.gradients == "together"
