"""XLA in the place of the GPU kernels: as opaque to JAX as they are, and a CPU can run it."""

import contextlib
import dataclasses
from unittest import mock

import jax
from carafe_kernels import choice, mosaic_gpu, xla
from carafe_kernels.implementation import ImplementationSpec
from carafe_kernels.mosaic_gpu import calls
from carafe_kernels.normalizers import normalize


def by_xla(plan, results, operands):
    """Contractions of weights, without the settings of the kernels."""
    return xla.IMPLEMENTATION.contract(dataclasses.replace(plan, settings=None), results, operands)


def of_part(plan, results, operands):
    """The contractions of one device, from weights or logits."""
    if plan.normalizer is None:
        return by_xla(plan, results, operands)

    def normalized(logits):
        return normalize(logits, plan.geometry, plan.size, plan.normalizer)

    weights, pullback = jax.vjp(normalized, operands["logits"])
    operands = {**operands, "weights": weights}
    found = []
    for slot in results:
        of_slot = "weights" if slot == "logits" else slot
        (value,) = by_xla(plan.of_weights, (of_slot,), operands)
        found.extend(pullback(value) if slot == "logits" else (value,))
    return tuple(found)


class FreshSettings(mosaic_gpu.Settings):
    """Equal to no others: nothing that was traced with other stand-ins is found again."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


@contextlib.contextmanager
def stand_ins(*, together=False):
    """Registers the implementation "stand_ins", and gives the list of what devices compute.

    Args:
        together: whether it is asked for both gradients at once.
    """
    found = []

    def contract(plan, results, operands):
        def kernels(geometry, operands):
            found.append(results)
            part = dataclasses.replace(plan, geometry=geometry)
            return of_part(part, results, operands)

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
