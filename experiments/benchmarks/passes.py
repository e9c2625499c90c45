"""The passes that are timed, of functions of JAX and PyTorch alike."""

from collections.abc import Callable
from typing import Any

FORWARD = "forward"
WITH_GRADIENT = "with gradient"  # by all operands, for a cotangent that is given

Loss = Callable[[Any, Any], Any]


def losses(relu: Callable[[Any], Any]) -> dict[str, Loss]:
    """Losses of an output and an array of its shape, by the name of the pass.

    Their gradients by the output are elementwise operations: what a compiler could fuse into all
    that reads the gradient, and compute as often, the forward pass before it included.

    Args:
        relu: of the framework whose arrays the losses get.
    """
    return {
        "gradient, ReLU": lambda y, other: (relu(y) * other).sum(),
        "gradient, squared loss": lambda y, other: ((y - other) ** 2).mean(),
    }
