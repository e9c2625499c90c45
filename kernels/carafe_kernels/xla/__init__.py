"""Portable reassembly in plain XLA: runs on every backend, and is the reference of the others.

What it computes and how: :mod:`carafe_kernels.xla.contractions`.
"""

from carafe_kernels.implementation import ImplementationSpec
from carafe_kernels.xla.contractions import forward, input_gradient, weight_gradient
from carafe_kernels.xla.dispatch import contract, supports
from carafe_kernels.xla.settings import Settings, current_settings, using

IMPLEMENTATION = ImplementationSpec(contract, supports, settings=current_settings)

__all__ = [
    "IMPLEMENTATION",
    "Settings",
    "current_settings",
    "forward",
    "input_gradient",
    "using",
    "weight_gradient",
]
