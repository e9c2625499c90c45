"""Pallas kernels of the reassembly and its gradients, for NVIDIA GPUs (Mosaic GPU).

``kernels/README.md`` describes layouts, tiles and measurements.
"""

from carafe_kernels.implementation import ImplementationSpec
from carafe_kernels.mosaic_gpu.contractions import contract
from carafe_kernels.mosaic_gpu.settings import Settings, current_settings, interpreted, using
from carafe_kernels.mosaic_gpu.supports import DOWNS, KERNEL_SIZES, UPS, supports
from carafe_kernels.mosaic_gpu.variants import gradients_together

IMPLEMENTATION = ImplementationSpec(
    contract,
    supports,
    platform="cuda",
    settings=current_settings,
    gradients_together=gradients_together,
)

__all__ = [
    "DOWNS",
    "IMPLEMENTATION",
    "KERNEL_SIZES",
    "UPS",
    "Settings",
    "current_settings",
    "interpreted",
    "using",
]
