"""The implementations, which of them serves a call, and how they are called.

The choice is made when a call is traced, from shapes, dtypes and the GPUs of this process; where
the program will run is known when it is lowered, and may be another platform.
"""

import dataclasses
import functools
import importlib
import itertools
import logging
from collections.abc import Sequence

import jax
from carafe_kernels.geometry import Geometry
from carafe_kernels.implementation import Contract, Implementation
from carafe_kernels.normalizers import Normalizer, normalized_dtype
from carafe_kernels.plan import Operands, Plan, Results

from carafe_jax.proven import is_proven

# The module of each, which has it as IMPLEMENTATION. It is imported when it is asked for: that of
# the GPU kernels takes as long as JAX itself.
IMPLEMENTATIONS = {
    "xla": "carafe_kernels.xla",
    "mosaic_gpu": "carafe_kernels.mosaic_gpu",
}
PORTABLE = "xla"  # runs everywhere

_logger = logging.getLogger("carafe_jax")


def implementation(name: str) -> Implementation:
    """The implementation of a name."""
    found: Implementation = importlib.import_module(IMPLEMENTATIONS[name]).IMPLEMENTATION
    return found


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


def choose(
    name: str | None,
    geometry: Geometry,
    x: jax.Array,
    weights: jax.Array,
    normalizer: Normalizer | None = None,
) -> Plan:
    """Chooses what serves a call.

    Args:
        name: of an implementation, or ``None`` for the one that is proven best.
        geometry: shape of the reassembly.
        x: the map.
        weights: the weights or logits.
        normalizer: of the logits, or ``None`` for weights.

    Returns:
        The plan of the call. With logits its normaliser is ``None`` where the implementation does
        not fuse it: then it serves the weights that :func:`carafe_kernels.normalizers.normalize`
        makes of them.

    Raises:
        ValueError: no implementation has this name.
        NotImplementedError: the named implementation cannot serve this call.
    """
    size, dtype = (x.shape[1], x.shape[2]), weights.dtype
    apart = dtype if normalizer is None else normalized_dtype(dtype)
    plans = [Plan(geometry, size, x.dtype, apart, None, PORTABLE)]
    if normalizer is not None:
        plans.insert(0, Plan(geometry, size, x.dtype, dtype, normalizer, PORTABLE))
    return _proven(plans, x) if name is None else _named(name, plans, x)


def _proven(plans: Sequence[Plan], x: jax.Array) -> Plan:
    # A program does not know on which GPU of this process it will run: all must be proven.
    devices = devices_of_process()
    for plan, name in itertools.product(plans, IMPLEMENTATIONS):
        if is_proven(name, plan, x.shape[3], devices):
            reason = _reason(name, plan, x, devices[0])
            if reason is None:
                return _by(name, plan, automatic=True)
            log_once(f"implementation=None does not run {name!r}: {reason}")
    return plans[-1]


def _named(name: str, plans: Sequence[Plan], x: jax.Array) -> Plan:
    if name not in tuple(IMPLEMENTATIONS):
        raise ValueError(
            f"implementation must be None or one of {tuple(IMPLEMENTATIONS)}, got {name!r}"
        )
    # Without a GPU in this process the program may be for another one, and says what it lacks
    # where it is lowered. Of several GPUs, one will do.
    gpus = [device for device in devices_of_process() if device.platform == "gpu"]
    for plan in plans:
        reasons = [_reason(name, plan, x, device) for device in gpus or [None]]
        if not all(reasons):
            return _by(name, plan, automatic=False)
        if plan.normalizer is not None:
            log_once(f"logits are normalised apart: {reasons[0]}")
    raise NotImplementedError(
        f"implementation {name!r} cannot serve this call: {reasons[0]}; "
        f"implementation={PORTABLE!r} or None can"
    )


def _reason(name: str, plan: Plan, x: jax.Array, device: jax.Device | None) -> str | None:
    """Why an implementation cannot serve a plan on a device; ``None`` if it can."""
    return implementation(name).supports(
        plan.geometry,
        plan.x_dtype,
        x.shape,
        device,
        weights_dtype=plan.weights_dtype,
        normalizer=plan.normalizer,
    )


def _by(name: str, plan: Plan, *, automatic: bool) -> Plan:
    """The same by an implementation, with the settings that it has now."""
    settings = implementation(name).settings()
    return dataclasses.replace(plan, implementation=name, automatic=automatic, settings=settings)


def run(
    plan: Plan, results: Results, operands: Operands, elsewhere: Contract
) -> tuple[jax.Array, ...]:
    """Contracts by the implementation of a plan.

    Args:
        plan: what stays fixed.
        results: which arrays to compute.
        operands: the arrays to compute them from.
        elsewhere: computes them by XLA, where an automatic choice is lowered for a platform that
            the implementation does not serve.
    """
    chosen = implementation(plan.implementation)
    here = functools.partial(chosen.contract, plan, results)
    if not plan.automatic or chosen.platform is None:
        return here(operands)
    portable = dataclasses.replace(plan, implementation=PORTABLE, automatic=False, settings=None)
    there = functools.partial(elsewhere, portable, results)
    return jax.lax.platform_dependent(operands, **{chosen.platform: here}, default=there)


def gradients_together(plan: Plan) -> bool:
    """Whether the implementation of a plan is asked for both gradients at once."""
    return implementation(plan.implementation).gradients_together(plan)
