"""The calls for which ``implementation=None`` chooses GPU kernels: calls proven on a GPU."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax

from carafe_kernels.geometry import Geometry
from carafe_kernels.names import Normalizer
from carafe_kernels.plan import Plan


@dataclasses.dataclass(frozen=True)
class Proven:
    """Calls that the kernels compute correctly, and faster than ``"xla"``, on a GPU.

    The kernels must be faster with and without gradients, because a call does not know whether its
    result will be differentiated.

    Args:
        implementation: name of the implementation.
        compute_capability: compute capability of the GPU that ran the calls, such as ``"9.0"``.
        geometry: geometry of the reassembly, with the ``up`` and ``down`` of the call.
        dtype: dtype of the feature map.
        weights_dtype: dtype of the weights or logits.
        normalizer: normaliser of :func:`carafe_jax.carafe`; ``None`` for
            :func:`carafe_jax.reassemble`.
        channels: smallest and largest number of channels that were measured.
    """

    implementation: str
    compute_capability: str
    geometry: Geometry
    dtype: str
    weights_dtype: str
    normalizer: Normalizer | None
    channels: tuple[int, int]


# Geometries, and the numbers of channels with which they were measured.
_MEASURED = {Geometry(5, up=2): (256, 256), Geometry(5, down=2): (64, 64)}


def _measured(geometry: Geometry, channels: tuple[int, int], dtype: str) -> tuple[Proven, Proven]:
    """The calls with weights in float32, and with logits in the dtype of the map."""
    call = functools.partial(Proven, "mosaic_gpu", "9.0", geometry, dtype, channels=channels)
    return call("float32", normalizer=None), call(dtype, normalizer="softmax")


# The calls that ran correctly, and faster than "xla" with and without gradients, on an H100. The
# times are in kernels/README.md. Since then two barriers have changed the programs of "xla".
TABLE: tuple[Proven, ...] = tuple(
    itertools.chain.from_iterable(
        _measured(geometry, channels, dtype)
        for geometry, channels in _MEASURED.items()
        for dtype in ("float32", "bfloat16")
    )
)


def is_proven(
    implementation: str, plan: Plan, channels: int, devices: Sequence[jax.Device]
) -> bool:
    """Whether :data:`TABLE` lists a call for the compute capability of every device.

    Args:
        implementation: name of the implementation.
        plan: plan of the call.
        channels: number of channels of the feature map.
        devices: devices on which the call may run, at least one.
    """
    if plan.resize is not None or any(device.platform != "gpu" for device in devices):
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
