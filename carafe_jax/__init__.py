"""CARAFE++: content-aware reassembly of features for JAX and Flax."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

# The names that ``from carafe_jax import *`` imports. Modules are not among them: they would hide
# Flax's ``linen`` and ``nnx``.
__all__ = [
    "Implementation",
    "Normalizer",
    "Scale",
    "carafe",
    "reassemble",
    "reassembly_kernels",
    "similarities",
]

if TYPE_CHECKING:
    from carafe_kernels.names import Implementation, Normalizer, Scale

    from carafe_jax import convert as convert
    from carafe_jax import convolution as convolution
    from carafe_jax import linen as linen
    from carafe_jax import nnx as nnx
    from carafe_jax import sources as sources
    from carafe_jax._ops import carafe, reassemble, reassembly_kernels, similarities
else:
    import importlib

    # A program needs at most one of Flax's two APIs. Each takes nearly as long to import as JAX. A
    # program that only prints its options does not even need JAX.
    _MODULES = ("convert", "convolution", "linen", "nnx", "sources")
    _MODULE_OF_NAME = {
        "Implementation": "carafe_kernels.names",
        "Normalizer": "carafe_kernels.names",
        "Scale": "carafe_kernels.names",
        "carafe": "carafe_jax._ops",
        "reassemble": "carafe_jax._ops",
        "reassembly_kernels": "carafe_jax._ops",
        "similarities": "carafe_jax._ops",
    }

    def __getattr__(name):
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _MODULE_OF_NAME:
            value = getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
            globals()[name] = value
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        special = [name for name in globals() if name.startswith("__")]
        return sorted({*special, *_MODULES, *__all__})
