"""Reassembly in Pallas kernels for NVIDIA GPUs (Mosaic GPU), forward and backward.

Layouts, tiles and what was measured: ``kernels/README.md``.
"""

from carafe_kernels.mosaic_gpu.contractions import (
    forward,
    forward_from_logits,
    gradients,
    gradients_from_logits,
    input_gradient,
    input_gradient_from_logits,
    logit_gradient,
    weight_gradient,
)
from carafe_kernels.mosaic_gpu.settings import Settings, current_settings, interpreted, using
from carafe_kernels.mosaic_gpu.supports import DOWNS, KERNEL_SIZES, UPS, supports
from carafe_kernels.mosaic_gpu.variants import gradients_together

__all__ = [
    "DOWNS",
    "KERNEL_SIZES",
    "UPS",
    "Settings",
    "current_settings",
    "forward",
    "forward_from_logits",
    "gradients",
    "gradients_from_logits",
    "gradients_together",
    "input_gradient",
    "input_gradient_from_logits",
    "interpreted",
    "logit_gradient",
    "supports",
    "using",
    "weight_gradient",
]
