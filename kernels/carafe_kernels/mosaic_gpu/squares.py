"""Squares of targets, and the patches of the source map that they read.

A *square* is 8 x 8 targets (output pixels), which are 64 rows of a matrix. All taps of a square lie
in a patch of the source map that is 8 pixels wide. A block computes several squares below each
other, whose patches overlap.
"""

from carafe_kernels.mosaic_gpu.problem import Problem
from carafe_kernels.mosaic_gpu.tensor_cores import UP, maps_reason

SIDE = 8  # targets of a side of a square, and the width of its patch
TARGETS = SIDE**2
CELLS = SIDE // UP  # cells along a side of a square
SQUARES = 2  # squares of a block; the sums or bands of all of them fit into a thread's registers


def squares_reason(problem: Problem) -> str | None:
    """Why the tensor cores cannot compute squares of a problem; ``None`` if they can."""
    if reason := maps_reason(problem):
        return reason
    geometry = problem.geometry
    if CELLS + 2 * geometry.radius > SIDE:
        return f"a patch of kernel_size {geometry.kernel_size} is wider than {SIDE} pixels"
    return None
