"""CARAFE++: content-aware reassembly of features for JAX and Flax."""

from typing import TYPE_CHECKING

from carafe_jax.ops import carafe, reassemble, reassembly_kernels

__all__ = ["carafe", "linen", "nnx", "reassemble", "reassembly_kernels"]

if TYPE_CHECKING:
    from carafe_jax import linen, nnx
else:
    import importlib

    # Flax's two APIs take nearly as long to import as JAX, and a program needs one of them at most.
    _LAZY = ("linen", "nnx")

    def __getattr__(name):
        if name in _LAZY:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *_LAZY})
