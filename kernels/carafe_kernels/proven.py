"""What ``implementation=None`` prefers to ``"xla"``: what a GPU has proven."""

import dataclasses
from collections.abc import Sequence

import jax

from carafe_kernels.geometry import Geometry
from carafe_kernels.names import Normalizer
from carafe_kernels.plan import Plan


@dataclasses.dataclass(frozen=True)
class Proven:
    """Calls that kernels answer right, and faster than ``"xla"``, with and without gradients.

    Both, because a call does not know whether its result will be differentiated.

    Args:
        implementation: name of that of the kernels.
        compute_capability: of the GPU that has shown it, as ``"9.0"``.
        geometry: shape of the reassembly, as a call names it.
        dtype: of the map.
        weights_dtype: of the weights or logits.
        normalizer: of :func:`carafe_jax.carafe`; ``None`` for :func:`carafe_jax.reassemble`.
        channels: the smallest and the largest number of channels that was measured.
    """

    implementation: str
    compute_capability: str
    geometry: Geometry
    dtype: str
    weights_dtype: str
    normalizer: Normalizer | None
    channels: tuple[int, int]


# Empty, because the kernels have not run on a GPU yet.
TABLE: tuple[Proven, ...] = ()


def is_proven(
    implementation: str, plan: Plan, channels: int, devices: Sequence[jax.Device]
) -> bool:
    """Whether :data:`TABLE` has a call on every one of the devices.

    Args:
        implementation: name of what would compute it.
        plan: of the call.
        channels: of the map.
        devices: those on which the call may run, at least one.
    """
    if any(device.platform != "gpu" for device in devices):
        return False
    call = (implementation, plan.geometry, plan.normalizer)
    dtypes = plan.x_dtype.name, plan.weights_dtype.name
    proven_on = {
        case.compute_capability
        for case in TABLE
        if (case.implementation, case.geometry, case.normalizer) == call
        and (case.dtype, case.weights_dtype) == dtypes
        and case.channels[0] <= channels <= case.channels[1]
    }
    return proven_on.issuperset(str(device.compute_capability) for device in devices)
