"""Settings of the contractions on a CPU.

The defaults depend on the number of cores. Users need not set them; tests vary them. They are read
when a call is traced, and are part of the traced program.
"""

import dataclasses
import os

import jax

from carafe_kernels.devices import devices_of_process
from carafe_kernels.plan import Plan
from carafe_kernels.scoped import ScopedSettings

# A loop runs on one core and takes a fifth to a quarter of the processor time of the form without a
# loop (weight gradient of 1x50x50x256, up 2). So with more than four or five cores the form without
# a loop is faster.
MAX_CORES_OF_LOOPS = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choices between programs with the same result, for CPUs.

    Args:
        loops: whether a loop over blocks of rows computes gradients. The loop runs on one core, and
            its blocks stay in the cache.
        block_bytes: approximate size in bytes of the maps in a block, in the dtype of the sums.
        min_summed_channels: smallest number of channels per group for which a loop computes the
            gradient of the weights.
        max_read_bytes: largest number of bytes that an input gradient without a loop reads from
            its padded copy, in all passes together. It is halved for maps of 16 bits, because the
            copy has 32 bits, so that without a loop temporaries are twice as large as the map.
        max_padded_bytes: largest size in bytes of a padded copy in the forward pass for an integer
            stride. For a larger map only the border is copied, if a loop computes the gradient of
            the weights. ``None`` copies maps of any size.
        min_share_inside: smallest fraction of outputs whose taps all lie inside the map, for which
            only the border is copied.
        channels_at_once: largest number of channels per group that a weight gradient without a loop
            sums in one pass over memory; ``None`` sums all of them.
    """

    loops: bool = False
    block_bytes: int = 2**20
    min_summed_channels: int = 64
    max_read_bytes: int = 96 * 2**20
    max_padded_bytes: int | None = None
    min_share_inside: float = 0.8
    channels_at_once: int | None = None


FOR_ANY_DEVICE = Settings()


def _settings_of_process() -> Settings:
    platform = devices_of_process()[0].platform
    # Several devices may share an array, and slicing a shared axis gathers the array first.
    if platform != "cpu" or jax.device_count(platform) > 1:
        return FOR_ANY_DEVICE
    return Settings(
        loops=_cores() <= MAX_CORES_OF_LOOPS, max_padded_bytes=2**20, channels_at_once=256
    )


def _cores() -> int:
    """Number of cores this process may use by its affinity. Quotas of containers are ignored."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_SETTINGS = ScopedSettings(_settings_of_process)
current_settings = _SETTINGS.current  # the settings of calls that are traced now
using = _SETTINGS.using  # a context manager that changes fields for calls traced inside it


def settings_of(plan: Plan) -> Settings:
    """The settings of a plan, or the settings for any device if the plan has none."""
    if plan.settings is None:
        return FOR_ANY_DEVICE
    if not isinstance(plan.settings, Settings):
        raise TypeError(f"settings of a plan must be Settings of xla, got {plan.settings!r}")
    return plan.settings
