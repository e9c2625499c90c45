"""Portable reassembly in plain XLA, which runs on every backend.

It is the reference for the other implementations. :mod:`carafe_kernels.xla.contractions` has the
computation.
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
