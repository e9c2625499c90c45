"""Stand-ins for the GPU kernels: opaque calls in which a CPU computes with XLA."""

import contextlib
import dataclasses
from unittest import mock

import jax
from carafe_kernels import choice, mosaic_gpu, xla
from carafe_kernels.implementation import ImplementationSpec
from carafe_kernels.mosaic_gpu import calls
from carafe_kernels.normalizers import normalize


def by_xla(plan, results, operands):
    """Computes contractions of weights with XLA, without the settings of the kernels."""
    return xla.IMPLEMENTATION.contract(dataclasses.replace(plan, settings=None), results, operands)


def contract_shard(plan, results, operands):
    """Computes the contractions of one device, from weights or logits."""
    if plan.normalizer is None:
        return by_xla(plan, results, operands)

    def normalized(logits):
        return normalize(logits, plan.geometry, plan.size, plan.normalizer)

    weights, pullback = jax.vjp(normalized, operands["logits"])
    operands = {**operands, "weights": weights}
    found = []
    for slot in results:
        xla_slot = "weights" if slot == "logits" else slot
        (value,) = by_xla(plan.of_weights, (xla_slot,), operands)
        found.extend(pullback(value) if slot == "logits" else (value,))
    return tuple(found)


class FreshSettings(mosaic_gpu.Settings):
    """Settings that equal no others, so that no call reuses a trace with other stand-ins."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@contextlib.contextmanager
def stand_ins(*, together=False):
    """Registers the implementation "stand_ins".

    Args:
        together: whether one call computes both gradients.

    Yields:
        The list of the results that devices have computed.
    """
    found = []

    def contract(plan, results, operands):
        def kernels(geometry, operands):
            found.append(results)
            shard_plan = dataclasses.replace(plan, geometry=geometry)
            return contract_shard(shard_plan, results, operands)

        return calls.call_kernels(kernels, plan, results, operands)

    settings = FreshSettings()
    implementation = ImplementationSpec(
        contract,
        mosaic_gpu.IMPLEMENTATION.supports,
        settings=lambda: settings,
        gradients_together=lambda plan: together,
    )
    module = mock.Mock(IMPLEMENTATION=implementation)
    with (
        mock.patch.dict("sys.modules", {"stand_ins": module}),
        mock.patch.dict(choice.IMPLEMENTATIONS, {"stand_ins": "stand_ins"}),
        mock.patch.object(calls, "on_cuda", lambda array: array),
    ):
        yield found
