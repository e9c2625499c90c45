"""How the kernels are compiled and run: what tests vary, and a first run on a new GPU.

Users need none of this. The settings are read when a call is traced, and stay with the program that
is traced, with its gradients too.
"""

import contextlib
import dataclasses
from typing import Literal

from jax.experimental.pallas import mosaic_gpu as plgpu

from carafe_kernels.plan import Plan
from carafe_kernels.scoped import ScopedSettings

MAX_SLOTS = 2


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choices between programs that compute the same.

    Args:
        interpret: runs the kernels on the CPU, step by step; ``None`` compiles them for a GPU.
        forward: ``"multiply_add"`` on the CUDA cores or ``"bands"`` on the tensor cores; ``None``
            chooses by the problem.
        gradients: whether both gradients of a pass come from kernels launched ``"apart"`` or
            ``"together"`` in one launch, which computes both also where one is wanted; ``None``
            chooses by the problem.
        automatic_barriers: has the compiler add barriers, which tells whether one is missing.
        max_slots: buffers for the map that comes in; with 1 nothing is copied ahead.
        padded_maps: pads the maps in memory, so that no copy starts before an array.
    """

    interpret: plgpu.InterpretGPUParams | None = None
    forward: Literal["multiply_add", "bands"] | None = None
    gradients: Literal["apart", "together"] | None = None
    automatic_barriers: bool = False
    max_slots: int = MAX_SLOTS
    padded_maps: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.max_slots <= MAX_SLOTS:
            raise ValueError(f"max_slots must be from 1 to {MAX_SLOTS}, got {self.max_slots}")

    @property
    def pads_maps(self) -> bool:
        """Whether maps are padded in memory; the interpreter has no negative starts either."""
        return self.padded_maps or self.interpret is not None

    @property
    def compiler_params(self) -> plgpu.CompilerParams:
        """Lane semantics take layouts that are written out, also of slices that start anywhere.

        Barriers are ours: no buffer is both read and written between two of them.
        """
        return plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Lane,
            unsafe_no_auto_barriers=not self.automatic_barriers,
        )


_SETTINGS = ScopedSettings(Settings)
current_settings = _SETTINGS.current  # of kernels that are traced now
using = _SETTINGS.using  # changes fields for kernels that are traced inside


def settings_of(plan: Plan) -> Settings:
    """The settings that a plan keeps."""
    if not isinstance(plan.settings, Settings):
        raise TypeError(f"settings of a plan must be Settings of mosaic_gpu, got {plan.settings!r}")
    return plan.settings


def interpreted(*, detect_races: bool = False) -> contextlib.AbstractContextManager[None]:
    """Has kernels that are traced inside run on the CPU, step by step, for tests.

    Args:
        detect_races: whether to look for accesses that no barrier orders.
    """
    return using(interpret=plgpu.InterpretGPUParams(detect_races=detect_races))
