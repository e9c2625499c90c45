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

from carafe_kernels.devices import devices_of_process
from carafe_kernels.geometry import Geometry
from carafe_kernels.implementation import Contract, ImplementationSpec
from carafe_kernels.names import Normalizer
from carafe_kernels.plan import Operands, Plan, Results
from carafe_kernels.proven import is_proven

# The module of each implementation. A module is imported when it is first used: that of the GPU
# kernels takes as long to import as JAX itself.
IMPLEMENTATIONS = {
    "xla": "carafe_kernels.xla",
    "mosaic_gpu": "carafe_kernels.mosaic_gpu",
}
PORTABLE = "xla"  # runs everywhere

_logger = logging.getLogger("carafe_jax")


def implementation(name: str) -> ImplementationSpec:
    """The implementation of a name."""
    found: ImplementationSpec = importlib.import_module(IMPLEMENTATIONS[name]).IMPLEMENTATION
    return found


@functools.cache
def log_once(message: str) -> None:
    """Logs a message for debugging, the first time only."""
    _logger.debug(message)


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
    size = x.shape[1], x.shape[2]
    plan = Plan(geometry, size, x.dtype, weights.dtype, normalizer, PORTABLE)
    plans = [plan] if normalizer is None else [plan, plan.of_weights]
    return _proven(plans, x) if name is None else _named(name, plans, x)


def _proven(plans: Sequence[Plan], x: jax.Array) -> Plan:
    # A program does not know on which GPU of this process it will run: all must be proven.
    devices = devices_of_process()
    for plan, name in itertools.product(plans, IMPLEMENTATIONS):
        if is_proven(name, plan, x.shape[3], devices):
            candidate = _computed_by(name, plan, automatic=True)
            reason = _reason(candidate, x, devices[0])
            if reason is None:
                return candidate
            log_once(f"implementation=None does not run {name!r}: {reason}")
    return _computed_by(PORTABLE, plans[-1], automatic=False)


def _named(name: str, plans: Sequence[Plan], x: jax.Array) -> Plan:
    if name not in tuple(IMPLEMENTATIONS):
        raise ValueError(
            f"implementation must be None or one of {tuple(IMPLEMENTATIONS)}, got {name!r}"
        )
    # Without a GPU in this process the program may be for another one, and says what it lacks
    # where it is lowered. Of several GPUs, one will do.
    gpus = [device for device in devices_of_process() if device.platform == "gpu"]
    devices = gpus or [None]
    candidates = [_computed_by(name, plan, automatic=False) for plan in plans]
    for plan, device in itertools.product(candidates, devices):
        if _reason(plan, x, device) is None:
            if plan is not candidates[0] and name != PORTABLE:  # which never fuses them
                reason = _reason(candidates[0], x, device)
                log_once(f"logits are normalised apart: {reason}")
            return plan
    raise NotImplementedError(
        f"implementation {name!r} cannot serve this call: "
        f"{_reason(candidates[-1], x, devices[0])}; implementation={PORTABLE!r} or None can"
    )


def _reason(plan: Plan, x: jax.Array, device: jax.Device | None) -> str | None:
    """Why its implementation cannot serve a plan on a device; ``None`` if it can."""
    supports = implementation(plan.implementation).supports
    reason = supports(plan, x.shape, device)
    if reason is None and plan.normalizer is not None:
        # Second derivatives of reassembly from logits contract weights.
        reason = supports(plan.of_weights, x.shape, device)
    return reason


def _computed_by(name: str, plan: Plan, *, automatic: bool) -> Plan:
    """Returns the plan with an implementation and the settings that it has now."""
    settings = implementation(name).settings()
    return dataclasses.replace(plan, implementation=name, automatic=automatic, settings=settings)


def run(
    plan: Plan, results: Results, operands: Operands, elsewhere: Contract | None = None
) -> tuple[jax.Array, ...]:
    """Contracts by the implementation of a plan.

    Args:
        plan: what stays fixed.
        results: which arrays to compute.
        operands: the arrays to compute them from.
        elsewhere: computes them where an automatic choice is lowered for a platform that the
            implementation does not serve; by default the portable implementation does.
    """
    chosen = implementation(plan.implementation)
    here = functools.partial(chosen.contract, plan, results)
    if not plan.automatic or chosen.platform is None:
        return here(operands)
    portable = dataclasses.replace(plan, implementation=PORTABLE, automatic=False, settings=None)
    there = functools.partial(elsewhere or implementation(PORTABLE).contract, portable, results)
    return jax.lax.platform_dependent(operands, **{chosen.platform: here}, default=there)
