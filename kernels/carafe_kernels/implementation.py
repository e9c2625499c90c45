"""The interface of an implementation of the reassembly."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import jax

from carafe_kernels.plan import Operands, Plan, Results


class Contract(Protocol):
    """Computes contractions of the trilinear form ``sum(weights * y * gather(x))``."""

    def __call__(self, plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
        """Computes one contraction, or both gradients.

        Args:
            plan: plan of the call.
            results: names of the arrays to compute: ``("y",)``, ``("x",)``, ``("weights",)``, or
                both gradients, ``("x", "weights")``. With ``plan.normalizer``, ``"logits"``
                replaces ``"weights"``.
            operands: arrays to compute from, by name: ``x`` and ``weights`` for ``y``; ``weights``
                and ``y`` for ``x``; ``x`` and ``y`` for ``weights``; all three arrays for both
                gradients, and for ``logits``.

        Returns:
            The arrays that ``results`` names, in its order and in the dtypes of ``plan``.
        """


class Supports(Protocol):
    """Returns why an implementation cannot serve a call and its gradients."""

    def __call__(
        self, plan: Plan, shape: tuple[Any, ...], device: jax.Device | None = None
    ) -> str | None:
        """Returns the reason, or ``None`` if the implementation can serve the call.

        Args:
            plan: plan of the call; with a ``normalizer``, for contractions of logits.
            shape: shape of the feature map, ``[B, H, W, C]``; sizes may be symbolic.
            device: device on which the call will run, or ``None`` if it is not known yet.
        """


@dataclasses.dataclass(frozen=True)
class ImplementationSpec:
    """An implementation of the reassembly.

    Args:
        contract: function that computes contractions.
        supports: function that returns why the implementation cannot serve a call.
        platform: platform for which the programs of the implementation can be lowered, as
            ``jax.lax.platform_dependent`` names it; ``None`` for any platform.
        settings: function that returns the current settings; a plan keeps them.
        gradients_together: function that returns whether ``contract`` computes both gradients of a
            plan in one call.
    """

    contract: Contract
    supports: Supports
    platform: str | None = None
    settings: Callable[[], Hashable] = lambda: None
    gradients_together: Callable[[Plan], bool] = lambda plan: False
