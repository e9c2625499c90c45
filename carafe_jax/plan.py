"""What stays fixed through all derivatives of one reassembly."""

import dataclasses
import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import jax.numpy as jnp
import numpy as np
from carafe_kernels.geometry import Geometry

if TYPE_CHECKING:
    from carafe_kernels.mosaic_gpu.settings import Settings

Implementation = Literal["xla", "mosaic_gpu"]
Normalizer = Literal["softmax", "sigmoid", "sigmoid_normalized"]


def kernels(implementation: Implementation) -> ModuleType:
    """The module of an implementation.

    That of the GPU kernels takes as long to import as JAX itself, and is not asked for on a CPU.
    """
    return importlib.import_module(f"carafe_kernels.{implementation}")


Slot = Literal["x", "weights", "y"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What stays fixed through all derivatives of one reassembly.

    Args:
        geometry: shape of the reassembly.
        size: ``(H, W)`` of the map.
        x_dtype: of the map and of the result.
        weights_dtype: of the weights, or of the logits.
        implementation: what computes.
        automatic: whether ``"xla"`` computes where a program is lowered for a platform that the
            implementation does not serve; else that is an error.
        settings: how the kernels of ``"mosaic_gpu"`` are compiled; ``None`` for ``"xla"``.
    """

    geometry: Geometry
    size: tuple[int, int]
    x_dtype: np.dtype
    weights_dtype: np.dtype
    implementation: Implementation
    automatic: bool
    settings: "Settings | None" = None

    @property
    def accumulator(self) -> np.dtype:
        return jnp.promote_types(jnp.promote_types(self.x_dtype, self.weights_dtype), jnp.float32)

    def gradients_together(self, *, from_logits: bool) -> bool:
        """Whether one kernel computes both gradients of a reassembly."""
        if self.implementation != "mosaic_gpu":
            return False
        return kernels("mosaic_gpu").gradients_together(
            self.geometry, self.x_dtype, self.settings, from_logits=from_logits
        )

    def dtype(self, slot: Slot) -> np.dtype:
        return self.weights_dtype if slot == "weights" else self.x_dtype
