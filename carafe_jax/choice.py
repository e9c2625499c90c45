"""Which implementation serves a call.

That is decided when the call is traced, from shapes, dtypes and the GPUs of this process; where the
program will run is known when it is lowered, and may be another platform.
"""

import functools
import logging
from typing import get_args

import jax
from carafe_kernels.geometry import Geometry

from carafe_jax.plan import Implementation, Normalizer, kernels
from carafe_jax.proven import is_proven

_logger = logging.getLogger("carafe_jax")


@functools.cache
def log_once(message: str) -> None:
    """Logs a message for debugging, the first time only."""
    _logger.debug(message)


def devices_of_process() -> list[jax.Device]:
    """The devices of this process that what is traced now may run on."""
    default = jax.config.jax_default_device
    return jax.local_devices(
        backend=default.platform if isinstance(default, jax.Device) else default
    )


def _reason(
    implementation: Implementation,
    geometry: Geometry,
    x: jax.Array,
    weights: jax.Array,
    device: jax.Device | None = None,
    normalizer: Normalizer | None = None,
) -> str | None:
    """Why an implementation cannot serve a call; ``None`` if it can."""
    return kernels(implementation).supports(
        geometry, x.dtype, x.shape, device, weights_dtype=weights.dtype, normalizer=normalizer
    )


def _automatic(
    geometry: Geometry, x: jax.Array, weights: jax.Array, normalizer: Normalizer | None
) -> Implementation:
    # A program does not know on which GPU of this process it will run: all must be proven.
    devices = devices_of_process()
    if not is_proven(geometry, x.dtype, weights.dtype, normalizer, x.shape[3], devices):
        return "xla"
    reason = _reason("mosaic_gpu", geometry, x, weights, devices[0], normalizer)
    if reason is None:
        return "mosaic_gpu"
    log_once(f"implementation=None does not run 'mosaic_gpu': {reason}")
    return "xla"


def choose(
    implementation: Implementation | None,
    geometry: Geometry,
    x: jax.Array,
    weights: jax.Array,
    normalizer: Normalizer | None = None,
) -> Implementation:
    """The implementation of a call, for ``None`` the one that is proven best.

    Args:
        implementation: as in :func:`carafe_jax.reassemble`.
        geometry: shape of the reassembly.
        x: the map.
        weights: the weights, or the logits.
        normalizer: of the logits, or ``None`` for weights.

    Raises:
        ValueError: ``implementation`` is none.
        NotImplementedError: the named implementation cannot serve this call.
    """
    if implementation is None:
        return _automatic(geometry, x, weights, normalizer)
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"implementation must be None or one of {get_args(Implementation)}, "
            f"got {implementation!r}"
        )
    # Without a GPU in this process the program may be for another one, and says what it lacks
    # where it is lowered. Of several GPUs, one will do.
    gpus = [device for device in devices_of_process() if device.platform == "gpu"]
    reasons = [_reason(implementation, geometry, x, weights, gpu) for gpu in gpus or [None]]
    if all(reasons):
        raise NotImplementedError(
            f"implementation {implementation!r} cannot serve this call: {reasons[0]}; "
            "implementation='xla' or None can"
        )
    return implementation


def fuses(
    implementation: Implementation | None,
    geometry: Geometry,
    x: jax.Array,
    logits: jax.Array,
    normalizer: Normalizer,
) -> bool:
    """Whether a kernel that normalises logits by itself serves a call; raises as :func:`choose`."""
    if choose(implementation, geometry, x, logits, normalizer) != "mosaic_gpu":
        return False
    reason = _reason("mosaic_gpu", geometry, x, logits, normalizer=normalizer)
    if reason is not None:
        log_once(f"logits are normalised apart: {reason}")
    return reason is None
