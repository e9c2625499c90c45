"""How contractions are computed on a CPU: by its cores, and what tests vary.

Users need none of this. The settings are read when a call is traced, and stay with the program that
is traced.
"""

import dataclasses
import os

import jax

from carafe_kernels.devices import devices_of_process
from carafe_kernels.plan import Plan
from carafe_kernels.scoped import ScopedSettings

# A loop takes a fifth to a quarter of the processor time of the form without one (weight gradient
# of 1x50x50x256, up 2), so with more than four or five cores that form is faster.
MAX_CORES_OF_LOOPS = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choices between programs that compute the same, for CPUs.

    Args:
        loops: whether gradients come from a loop over blocks of rows, which runs on one core and
            keeps what it reads in its cache.
        block_bytes: how large the maps of a block are, about, in the dtype of the sums.
        min_summed_channels: how many channels of a group a weight gradient in a loop has.
        max_read_bytes: how much an input gradient without a loop reads of its padded copy, in all
            passes. For maps of 16 bits half of it: their copy has 32, so that without a loop
            temporaries are twice as large as the map.
        max_padded_bytes: how large the padded copy of a map is in the forward pass of an integer
            stride. Larger maps are read where they are, and only their border is copied, if the
            weight gradient is a loop. ``None`` copies maps of any size.
        min_share_inside: the share of the outputs that must read nothing outside the map, for only
            its border to be copied.
        channels_at_once: how many channels of a group a weight gradient without a loop sums in one
            pass over memory; ``None`` sums all of them.
    """

    loops: bool = False
    block_bytes: int = 2**20
    min_summed_channels: int = 64
    max_read_bytes: int = 96 * 2**20
    max_padded_bytes: int | None = None
    min_share_inside: float = 0.8
    channels_at_once: int | None = None


ANYWHERE = Settings()


def _settings_of_process() -> Settings:
    platform = devices_of_process()[0].platform
    # Several devices may share an array, and slicing a shared axis gathers the array first.
    if platform != "cpu" or jax.device_count(platform) > 1:
        return ANYWHERE
    return Settings(
        loops=_cores() <= MAX_CORES_OF_LOOPS, max_padded_bytes=2**20, channels_at_once=256
    )


def _cores() -> int:
    """How many cores this process may use by its affinity; quotas of a container are not read."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_SETTINGS = ScopedSettings(_settings_of_process)
current_settings = _SETTINGS.current  # of calls that are traced now
using = _SETTINGS.using  # changes fields for calls that are traced inside


def settings_of(plan: Plan) -> Settings:
    """The settings that a plan keeps; those for any device where it keeps none."""
    if plan.settings is None:
        return ANYWHERE
    if not isinstance(plan.settings, Settings):
        raise TypeError(f"settings of a plan must be Settings of xla, got {plan.settings!r}")
    return plan.settings
