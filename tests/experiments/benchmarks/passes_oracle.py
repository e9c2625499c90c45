"""Expected results of every pass of the operator, in float64."""

import numpy as np

from experiments.benchmarks.passes import FORWARD, WITH_GRADIENT
from tests.kernels import oracle


def results_of(case, x, weights, other):
    """The results of each pass: the output, both gradients, or all three arrays."""
    options = {name: case.options[name] for name in ("kernel_size", "up", "down")}

    def gradients(dy):
        return [
            oracle.input_gradient(weights, dy, case.size, **options),
            oracle.weight_gradient(x, dy, **options),
        ]

    y = oracle.reassemble(x, weights, **options)
    other = np.float64(other)
    return {
        FORWARD: [y],
        WITH_GRADIENT: [y, *gradients(other)],
        "gradient, ReLU": gradients(np.where(y > 0, other, 0)),
        "gradient, squared loss": gradients(2 * (y - other) / y.size),
    }
