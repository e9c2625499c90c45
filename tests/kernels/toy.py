"""A third implementation: products with a matrix of ones and zeros, one for each read."""

import jax.numpy as jnp
import numpy as np
from carafe_kernels.implementation import ImplementationSpec

from tests.kernels import oracle

# b: batch, g: group, c: channel, o: output, t: tap, s: source.
EINSUMS = {"y": "bogt,ots,bsgc->bogc", "x": "bogt,ots,bogc->bsgc", "weights": "bogc,ots,bsgc->bogt"}


def supports(plan, shape, device=None):
    if plan.normalizer is not None:
        return "the toy normalises nothing"
    return (
        None if plan.x_dtype == np.float32 else f"the toy computes in float32, not {plan.x_dtype}"
    )


def contract(plan, results, operands):
    (result,) = results
    geometry, (height, width) = plan.geometry, plan.size
    rows, columns = map(geometry.output_size, plan.size)
    reads = np.zeros((rows * columns, geometry.taps, height * width), np.float32)
    options = geometry.kernel_size, geometry.up, geometry.down
    for (row, column), (i, j), tap in oracle.reads(plan.size, *options):
        reads[row * columns + column, tap, i * width + j] = 1

    def grouped(array):
        return array.reshape(len(array), -1, geometry.groups, array.shape[3] // geometry.groups)

    first, last = (grouped(operands[slot]) for slot in ("weights", "y", "x") if slot in operands)
    out = jnp.einsum(EINSUMS[result], first, jnp.asarray(reads), last)
    channels = next(operands[slot] for slot in ("x", "y") if slot in operands).shape[3]
    return (out.reshape(len(out), *plan.shape(result, channels)),)


IMPLEMENTATION = ImplementationSpec(contract, supports)
