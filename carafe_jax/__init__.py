"""CARAFE++: content-aware reassembly of features for JAX and Flax."""

from carafe_jax import linen, nnx
from carafe_jax.ops import carafe, reassemble, reassembly_kernels

__all__ = ["carafe", "linen", "nnx", "reassemble", "reassembly_kernels"]
