"""The number of channels that a block of a kernel processes in one step."""

import jax.numpy as jnp
from carafe_kernels import mosaic_gpu
from carafe_kernels.geometry import Geometry
from carafe_kernels.mosaic_gpu.arrays import copied_dtype
from carafe_kernels.mosaic_gpu.forward_band_tiling import forward_band_tile
from carafe_kernels.mosaic_gpu.input_band_tiling import input_band_tile
from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tiling import forward_tile, input_gradient_tile
from carafe_kernels.mosaic_gpu.weight_product_tiling import weight_product_tile
from carafe_kernels.mosaic_gpu.weight_tiling import weight_gradient_tile

from experiments.benchmarks.cases import Case


def channels_of_a_step(case: Case, kernel: str) -> int:
    """Channels per step of a kernel, with the current settings.

    Args:
        case: shapes and options.
        kernel: ``"forward"``, ``"dx"``, ``"dw"`` or ``"dlogits"``.
    """
    settings = mosaic_gpu.current_settings()
    problem = _problem(case)
    slots = settings.max_slots
    if kernel in ("dw", "dlogits"):
        if settings.weight_gradient == "products":
            return weight_product_tile(problem, slots).channels
        return weight_gradient_tile(problem).channels
    if kernel == "forward" and settings.forward == "bands":
        return forward_band_tile(problem, slots).channels
    if kernel == "dx" and settings.input_gradient == "bands":
        return input_band_tile(problem, slots).channels
    tile_of = forward_tile if kernel == "forward" else input_gradient_tile
    return tile_of(problem, slots).words * problem.channels_of_a_word


def _problem(case: Case) -> Problem:
    geometry = Geometry(**case.options).lowest_terms
    cells_dtype = copied_dtype(jnp.dtype(case.kernels_dtype), geometry)
    return Problem(geometry, case.batch, case.size, case.channels, jnp.dtype(case.dtype),
                   cells_dtype, case.normalizer)  # fmt: skip
