"""The passes that are timed, in JAX and in PyTorch."""

from collections.abc import Callable
from typing import Any

FORWARD = "forward"
WITH_GRADIENT = "with gradient"  # with respect to all operands, for a given cotangent

Loss = Callable[[Any, Any], Any]


def losses(relu: Callable[[Any], Any]) -> dict[str, Loss]:
    """Losses of an output and a second array of its shape, by the name of their pass.

    The gradient of such a loss with respect to the output is an elementwise operation. A compiler
    may fuse it, and the forward pass that it needs, into every operation that reads the
    gradient, and so compute both several times.

    Args:
        relu: the ReLU function of the framework that provides the arrays.
    """
    return {
        "gradient, ReLU": lambda y, other: (relu(y) * other).sum(),
        "gradient, squared loss": lambda y, other: ((y - other) ** 2).mean(),
    }
