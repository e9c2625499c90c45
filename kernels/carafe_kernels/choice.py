"""The implementations of the reassembly, and the choice of one for each call.

A call chooses its implementation when it is traced, from shapes, dtypes and the GPUs of this
process. The platform on which the program will run is known only when the program is lowered.
"""

import dataclasses
import functools
import importlib
import itertools
import logging
from collections.abc import Sequence

import jax
import numpy as np

from carafe_kernels.devices import devices_of_process
from carafe_kernels.geometry import Geometry, Resize
from carafe_kernels.implementation import Contract, ImplementationSpec
from carafe_kernels.names import Normalizer
from carafe_kernels.plan import Operands, Plan, Results
from carafe_kernels.proven import is_proven

# The module of each implementation. Modules are imported when they are first used, because the
# module of the GPU kernels takes as long to import as JAX itself.
IMPLEMENTATIONS = {
    "xla": "carafe_kernels.xla",
    "mosaic_gpu": "carafe_kernels.mosaic_gpu",
}
PORTABLE = "xla"  # runs everywhere

_logger = logging.getLogger("carafe_jax")


def implementation(name: str) -> ImplementationSpec:
    """Returns the implementation with a name."""
    found: ImplementationSpec = importlib.import_module(IMPLEMENTATIONS[name]).IMPLEMENTATION
    return found


@functools.cache
def log_once(message: str) -> None:
    """Logs a message at debug level, only the first time."""
    _logger.debug(message)


def choose(
    name: str | None,
    geometry: Geometry,
    x: jax.Array,
    weights_dtype: np.dtype,
    normalizer: Normalizer | None = None,
    resize: Resize | None = None,
) -> Plan:
    """Chooses the implementation of a call.

    Args:
        name: name of an implementation, or ``None`` for one that is proven for the call, or else
            :data:`PORTABLE`.
        geometry: geometry of the reassembly.
        x: feature map ``[B, H, W, C]``.
        weights_dtype: dtype of the weights or logits.
        normalizer: name of the normaliser of the logits, or ``None`` for weights.
        resize: axes of a reassembly of weights to any size; see :class:`Plan`.

    Returns:
        The plan of the call. For logits, if the implementation does not normalise
        them, the normaliser of the plan is ``None``: then the caller normalises them with
        :func:`carafe_kernels.normalizers.normalize`, and the plan is for the resulting weights.

    Raises:
        ValueError: no implementation has this name.
        NotImplementedError: the named implementation cannot serve this call.
    """
    size = x.shape[1], x.shape[2]
    plan = Plan(geometry, size, x.dtype, weights_dtype, normalizer, PORTABLE, resize=resize)
    plans = [plan] if normalizer is None else [plan, plan.of_weights]
    return _chosen_automatically(plans, x) if name is None else _chosen_by_name(name, plans, x)


def _chosen_automatically(plans: Sequence[Plan], x: jax.Array) -> Plan:
    # A program may run on any GPU of this process, so the call must be proven on all of them.
    devices = devices_of_process()
    for plan, name in itertools.product(plans, IMPLEMENTATIONS):
        if is_proven(name, plan, x.shape[3], devices):
            candidate = _with_implementation(name, plan, automatic=True)
            reason = _unsupported_reason(candidate, x, devices[0])
            if reason is None:
                return candidate
            log_once(f"implementation=None does not run {name!r}: {reason}")
    return _with_implementation(PORTABLE, plans[-1], automatic=False)


def _chosen_by_name(name: str, plans: Sequence[Plan], x: jax.Array) -> Plan:
    if name not in tuple(IMPLEMENTATIONS):
        raise ValueError(
            f"implementation must be None or one of {tuple(IMPLEMENTATIONS)}, got {name!r}"
        )
    # One GPU that can serve the call is enough. Without a GPU in this process, the program may be
    # for a GPU of another process; if it is lowered for another platform, it raises an error.
    gpus = [device for device in devices_of_process() if device.platform == "gpu"]
    devices = gpus or [None]
    candidates = [_with_implementation(name, plan, automatic=False) for plan in plans]
    for plan, device in itertools.product(candidates, devices):
        if _unsupported_reason(plan, x, device) is None:
            if plan is not candidates[0] and name != PORTABLE:  # PORTABLE never normalises logits
                reason = _unsupported_reason(candidates[0], x, device)
                log_once(f"logits are normalised by XLA, not by {name!r}: {reason}")
            return plan
    raise NotImplementedError(
        f"implementation {name!r} cannot serve this call: "
        f"{_unsupported_reason(candidates[-1], x, devices[0])}; "
        f"implementation={PORTABLE!r} or None can"
    )


def _unsupported_reason(plan: Plan, x: jax.Array, device: jax.Device | None) -> str | None:
    """Why the implementation of a plan cannot serve the plan on a device; ``None`` if it can."""
    supports = implementation(plan.implementation).supports
    reason = supports(plan, x.shape, device)
    if reason is None and plan.normalizer is not None:
        # Second derivatives of a reassembly from logits need the contractions of weights.
        reason = supports(plan.of_weights, x.shape, device)
    return reason


def _with_implementation(name: str, plan: Plan, *, automatic: bool) -> Plan:
    """Returns the plan with an implementation and its current settings."""
    settings = implementation(name).settings()
    return dataclasses.replace(plan, implementation=name, automatic=automatic, settings=settings)


def run(
    plan: Plan, results: Results, operands: Operands, fallback: Contract | None = None
) -> tuple[jax.Array, ...]:
    """Computes a contraction with the implementation of a plan.

    Args:
        plan: plan of the call.
        results: names of the arrays to compute.
        operands: arrays to compute the results from.
        fallback: function that computes the results if the implementation was chosen automatically
            and the program is lowered for a platform that the implementation does not serve; by
            default the contraction of the portable implementation.
    """
    chosen = implementation(plan.implementation)
    contract = functools.partial(chosen.contract, plan, results)
    if not plan.automatic or chosen.platform is None:
        return contract(operands)
    portable = dataclasses.replace(plan, implementation=PORTABLE, automatic=False, settings=None)
    default = functools.partial(fallback or implementation(PORTABLE).contract, portable, results)
    return jax.lax.platform_dependent(operands, **{chosen.platform: contract}, default=default)
