"""Settings of the kernels, for tests and for the first run on a new GPU.

Users do not need them. They are read when a call is traced. The traced program keeps them, and so
do its gradients.
"""

import contextlib
import dataclasses
from typing import Literal

from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.plan import Plan
from carafe_kernels.scoped import ScopedSettings

MAX_SLOTS = 2
MULTIPLY_ADD = "multiply_add"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choices between programs that compute the same results.

    Args:
        interpret: options of Pallas' interpreter, which runs the kernels on the CPU; ``None``
            compiles the kernels for a GPU.
        forward: kernel of the forward pass, ``"multiply_add"`` on the CUDA cores or ``"bands"`` on
            the tensor cores; ``None`` chooses by the problem.
        input_gradient: kernel of the gradient with respect to the map, ``"multiply_add"`` on the
            CUDA cores or ``"bands"`` on the tensor cores; ``None`` is ``"multiply_add"``.
        weight_gradient: kernel of the gradient with respect to weights or logits,
            ``"multiply_add"`` on the CUDA cores or ``"products"`` of matrices on the tensor cores;
            ``None`` is ``"multiply_add"``.
        gradients: ``"apart"`` computes the two gradients in two launches, ``"together"`` in one
            launch, which always computes both; ``None`` chooses by the problem.
        automatic_barriers: whether the compiler adds barriers, to find out if one is missing.
        max_slots: largest number of buffers for the maps that a block steps through; with 1, the
            data of the next step is not copied in advance.
        padded_maps: whether maps are padded in memory, so that no copy starts before an array.
    """

    interpret: plgpu.InterpretGPUParams | None = None
    forward: Literal["multiply_add", "bands"] | None = None
    input_gradient: Literal["multiply_add", "bands"] | None = None
    weight_gradient: Literal["multiply_add", "products"] | None = None
    gradients: Literal["apart", "together"] | None = None
    automatic_barriers: bool = False
    max_slots: int = MAX_SLOTS
    padded_maps: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_slots <= MAX_SLOTS:
            raise ValueError(f"max_slots must be from 1 to {MAX_SLOTS}, got {self.max_slots}")

    @property
    def pads_maps(self) -> bool:
        """Whether maps are padded in memory, which the interpreter always needs."""
        return self.padded_maps or self.interpret is not None

    @property
    def compiler_params(self) -> plgpu.CompilerParams:
        """Parameters of the compiler.

        Lane semantics allow explicit layouts, also for slices that start at any index. The kernels
        place their own barriers: no buffer is both read and written between two barriers.
        """
        return plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            unsafe_no_auto_barriers=not self.automatic_barriers,
        )


_SETTINGS = ScopedSettings(Settings)
current_settings = _SETTINGS.current
using = _SETTINGS.using  # a context manager that changes fields for kernels traced inside it


def settings_of(plan: Plan) -> Settings:
    """The settings that a plan keeps."""
    if not isinstance(plan.settings, Settings):
        raise TypeError(f"settings of a plan must be Settings of mosaic_gpu, got {plan.settings!r}")
    return plan.settings


def interpreted(*, detect_races: bool = False) -> contextlib.AbstractContextManager[None]:
    """Returns a context in which kernels are traced for Pallas' interpreter, on the CPU.

    Args:
        detect_races: whether the interpreter looks for accesses that no barrier orders.
    """
    return using(interpret=plgpu.InterpretGPUParams(detect_races=detect_races))
