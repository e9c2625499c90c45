"""What ``implementation=None`` gives to the kernels of ``"mosaic_gpu"``: what a GPU has proven."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from carafe_kernels.geometry import Geometry

from carafe_jax.plan import Normalizer


@dataclasses.dataclass(frozen=True)
class Proven:
    """Calls that the kernels answer right, and faster than ``"xla"``, with and without gradients.

    Both, because a call does not know whether its result will be differentiated.

    Args:
        compute_capability: of the GPU that has shown it, as ``"9.0"``.
        geometry: shape of the reassembly, as a call names it.
        dtype: of the map.
        weights_dtype: of the weights or logits.
        normalizer: of :func:`carafe_jax.carafe`; ``None`` for :func:`carafe_jax.reassemble`.
        channels: the smallest and the largest number of channels that was measured.
    """

    compute_capability: str
    geometry: Geometry
    dtype: str
    weights_dtype: str
    normalizer: Normalizer | None
    channels: tuple[int, int]


# Empty, because the kernels have not run on a GPU yet.
TABLE: tuple[Proven, ...] = ()


def is_proven(
    geometry: Geometry,
    dtype: np.dtype,
    weights_dtype: np.dtype,
    normalizer: Normalizer | None,
    channels: int,
    devices: Sequence[jax.Device],
) -> bool:
    """Whether :data:`TABLE` has a call on every one of the devices.

    Args:
        geometry: of the call.
        dtype: of the map.
        weights_dtype: of the weights or logits.
        normalizer: of the logits, or ``None`` for weights.
        channels: of the map.
        devices: those on which the call may run, at least one.
    """
    if any(device.platform != "gpu" for device in devices):
        return False
    names = np.dtype(dtype).name, np.dtype(weights_dtype).name
    proven_on = {
        case.compute_capability
        for case in TABLE
        if (case.geometry, case.normalizer) == (geometry, normalizer)
        and (case.dtype, case.weights_dtype) == names
        and case.channels[0] <= channels <= case.channels[1]
    }
    return proven_on.issuperset(str(device.compute_capability) for device in devices)
