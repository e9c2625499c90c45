"""What an implementation of the reassembly brings."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import jax

from carafe_kernels.plan import Operands, Plan, Results


class Contract(Protocol):
    """Contracts the form ``sum(weights * y * gather(x))`` to the slots that are left out."""

    def __call__(self, plan: Plan, results: Results, operands: Operands) -> tuple[jax.Array, ...]:
        """Computes arrays from the others.

        Args:
            plan: what stays fixed.
            results: which arrays to compute: ``("y",)``, ``("x",)``, ``("weights",)``, or both
                gradients, ``("x", "weights")``. With ``plan.normalizer``, ``"logits"`` stands in
                the place of ``"weights"``.
            operands: ``x`` and ``weights`` for ``y``; ``weights`` and ``y`` for ``x``; ``x`` and
                ``y`` for ``weights``; all three for both gradients, and for that of ``logits``.

        Returns:
            The results in their order, in the dtypes of ``plan``.
        """


class Supports(Protocol):
    """Says why an implementation cannot serve a call and its gradients."""

    def __call__(
        self, plan: Plan, shape: tuple[Any, ...], device: jax.Device | None = None
    ) -> str | None:
        """Returns the reason; ``None`` if it can.

        Args:
            plan: what stays fixed; with a ``normalizer``, contractions of logits.
            shape: of the map, ``[B, H, W, C]``; sizes may be symbolic.
            device: where it is to run, or ``None`` if that is not known yet.
        """


@dataclasses.dataclass(frozen=True)
class ImplementationSpec:
    """Computes contractions, and says which ones it serves, where and how.

    Args:
        contract: computes contractions.
        supports: says why it cannot serve a call.
        platform: the one that its programs are lowered for, by its name in
            ``jax.lax.platform_dependent``; ``None`` for any.
        settings: returns the settings that a plan keeps, if its call is traced now.
        gradients_together: says whether ``contract`` computes both gradients of a plan in one call.
    """

    contract: Contract
    supports: Supports
    platform: str | None = None
    settings: Callable[[], Hashable] = lambda: None
    gradients_together: Callable[[Plan], bool] = lambda plan: False
